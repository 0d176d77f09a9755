"""Finding images: in folders, globs, lists, buckets and on standard input. Yields one `Source` per image, lazily."""
