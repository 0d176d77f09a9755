"""Finding images and decoding them: in folders, globs, lists, buckets and on standard input.

Takes the input options. `finding` yields one `Source` per image, lazily; `frames` makes one of each frame of a file;
`decode` turns a source into an upright uint8 RGB array, by the `decoders` and in the `colour` of a viewer. An image
that cannot be read is an `ImageError`. May import `storage` and `settings`.
"""
