"""Fits the decoder of a model to labelled data; CLIP stays as it is.

Takes a checkpoint and a training set. Gives a new checkpoint. May import torch, and `run`, `evaluation`, `datasets`,
`model`, `prompts`, `storage` and `settings`.
"""
