"""The CLIPSeg model: the Segmenter and its two backends, the model registry, checkpoint files, and stored features.

Takes uint8 images and text. Returns embeddings, features and logits. Only this package and `training` import torch;
other packages import its torch modules inside functions. May import `storage` and `settings`.
"""
