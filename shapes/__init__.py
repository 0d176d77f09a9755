"""Synthetic scenes of drawn shapes, and the training and evaluation of the bundled models `shapes` and `shapes-sam`.

    vocabulary -> outlines, colours, backgrounds -> scenes -> queries (prompts and their ground truth)
                                                      |
                       architecture (the network) -> batches -> train -> evaluate -> model card
                                                      |
                         sam_model (the network) -> sam_batches -> train_sam -> refinement_benchmark

The package is not part of the wheel. Its products are the checkpoints in `clipseg_cli/model/weights/`.
"""
