"""A run, from the request to the manifest: embed prompts and exemplars, load, encode, decode, write, resume.

Takes the filled options. Yields one record per image, in order, whether this process, worker processes or Ray do the
work. Prints nothing. May import every package above it in `tests/test_floors.py` except `datasets`.
"""
