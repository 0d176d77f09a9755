"""Masks: soft maps from logits, thresholds, clean-up, refinement, outlines, tiles and COCO's encodings.

Takes arrays and options, returns arrays. Opens no file and loads no network. May import `prompts` and `settings`.
"""
