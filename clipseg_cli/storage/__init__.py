"""Files of this machine and objects in buckets, as bytes: each is written whole or not at all.

Takes paths and URLs. Provides atomic writes, files of lines that several processes extend, and errors that explain
a failure of the operating system. Knows nothing of images. May import only `errors`.
"""
