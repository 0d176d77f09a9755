"""The files of a run: one writer per format, the overlay, and the manifest with one record per image.

Takes the masks and soft maps of one image. Writes files through `storage` and returns records. May import `masks`,
`inputs`, `storage` and `settings`.
"""
