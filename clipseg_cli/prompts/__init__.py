"""Prompts as values: text prompts, boolean expressions, thresholds, folder names and visual prompt recipes.

Takes the user's text, or the pixels and the mask of an exemplar. Returns labels, prompts, expression trees,
thresholds, slugs, and the image that CLIPSeg sees for an exemplar. Opens no image and loads no network. Imports only
`errors` from this program.
"""
