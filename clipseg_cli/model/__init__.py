"""CLIPSeg itself: the Segmenter, its two backends, checkpoints, the registry of models, and kept features.

Takes uint8 images and text. Gives embeddings, features and logits. With `training`, the only package that imports
torch, so nothing outside imports its network files at module level. May import `storage` and `settings`.
"""
