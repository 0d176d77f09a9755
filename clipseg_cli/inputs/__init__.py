"""Finding images and decoding them: in folders, globs, lists, buckets and on standard input.

Takes the input options. `discovery` yields one `Source` per image, lazily; `decode` turns a source into an upright
uint8 RGB array. An image that cannot be read is an `ImageError`. May import `storage` and `settings`.
"""
