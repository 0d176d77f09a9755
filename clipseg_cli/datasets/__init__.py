"""Labelled data: ground-truth masks, training sets, and the data sets of the paper.

Takes folders, COCO files, CSV and JSONL. Returns images, prompts and their ground-truth masks. May import `inputs`,
`masks`, `prompts`, `storage` and `settings`.
"""
