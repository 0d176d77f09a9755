"""Frames: the pages of a TIFF, the images of an animation, the frames of a video. Each becomes a source of its own.

They are listed in the main process, which decodes nothing, and decoded in rising order by a `FrameReader`.
"""
