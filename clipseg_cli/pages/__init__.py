"""Web pages: the report of a run, and the live page with its local server.

Takes an output folder, or a folder of images. Returns HTML, and serves it on 127.0.0.1. Prints nothing. May import
`run`, `outputs`, `inputs`, `model`, `masks`, `prompts`, `storage` and `settings`.
"""
