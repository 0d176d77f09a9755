"""What a run writes: one writer per format, the overlay, and the manifest with one record per image.

Takes masks and soft maps of one image. Gives files, by way of `storage`, and records. May import `masks`, `inputs`,
`storage` and `settings`.
"""
