"""Training: fits the decoder of a model to labelled data. CLIP does not change.

Takes a checkpoint and a training set. Writes a new checkpoint. May import torch, and `run`, `evaluation`, `datasets`,
`outputs`, `model`, `prompts`, `storage` and `settings`.
"""
