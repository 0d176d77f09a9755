"""A run, from the request to the manifest: embed prompts and exemplars, load, encode, decode, write, resume.

Takes the filled options. Gives one record per image, in order, whether the work is done in this process, in worker
processes or by Ray. Prints nothing. May import every package above it in `tests/test_floors.py` except `datasets`.
"""
