"""What to look for, as values: text prompts, boolean expressions, thresholds and visual prompt recipes.

Takes the user's text, or the pixels and the mask of an exemplar. Gives labels, prompts, expression trees, and the
array that CLIPSeg sees of an exemplar. Opens no image and loads no network. Imports nothing of this program but
`errors`.
"""
