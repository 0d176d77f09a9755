"""Evaluation: scores of predictions against ground truth, thresholds from a few masks, and the paper's protocols.

Takes a run's outputs and labelled data. Returns scores as values. May import `datasets`, `outputs`, `inputs`, `model`,
`prompts`, `storage` and `settings`.
"""
