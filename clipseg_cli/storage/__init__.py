"""Bytes of named files, on a disk or in a bucket: a file is written whole or not at all.

Takes paths and URLs. Gives atomic writes, files of lines that several processes may extend, and what the operating
system's refusals mean. Knows nothing of images. Imports nothing of this program but `errors`.
"""
