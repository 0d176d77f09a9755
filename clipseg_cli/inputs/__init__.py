"""Which images to read, and their pixels: discovery in folders, globs, lists and buckets, and decoding.

Takes input options. Gives a lazy stream of `Source`, and of a source an upright uint8 RGB image; what cannot be read
is an `ImageError`. May import `storage` and `settings`.
"""
