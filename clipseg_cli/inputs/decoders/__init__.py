"""From an open file to pixels: one module per kind of file, or per library that decodes several.

Each has a function `decode(kind, file, options)`. It checks the header before it takes memory for the pixels, and
returns the first frame as upright 8-bit RGB with the number of frames and notes. It raises ImageError for a bad file.
To add a kind, write its decoder here and name it in `kinds.KINDS`. A decoder is imported with the first file of its
kind, so it may depend on an optional package.

A kind whose files hold several frames also has `sequence(kind, file, options)`, which opens them, and a row in
`frame_times.TIMES`, which lists them.
"""
