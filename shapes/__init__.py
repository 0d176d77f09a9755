"""Synthetic scenes of drawn shapes, and the training and evaluation of the bundled model `shapes`.

    vocabulary -> outlines, colours, backgrounds -> scenes -> queries (prompts and their ground truth)
                                                      |
                       architecture (the network) -> batches -> train -> evaluate -> model card

The package is not part of the wheel. Its product is the checkpoint in `clipseg_cli/model/weights/shapes/`.
"""
