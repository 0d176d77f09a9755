"""The drawn world behind the bundled `shapes` model: its renderer, its training program and its evaluation.

    vocabulary -> outlines, colours, backdrops -> world (scenes) -> phrases (what is asked, and what is true)
                                                      |
                    architecture (the network) -> lessons (batches) -> train -> evaluate -> model card

Nothing here is shipped in the wheel; the product of this package is `clipseg_cli/model/weights/shapes/`.
"""
