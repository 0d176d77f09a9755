"""From logits to masks: soft maps, thresholds, clean-up, refinement, outlines and tiles.

Arrays in, arrays out. Opens no file and loads no network. May import `prompts` and `settings`.
"""
