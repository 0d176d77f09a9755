"""Colour: pixels of any type and colour space become 8-bit sRGB.

Takes arrays and decoded Pillow images, and returns uint8 (H, W, 3). Adds notes on what was converted.
"""
