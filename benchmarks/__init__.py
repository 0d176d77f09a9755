"""How fast it is, against what a user would write: see `benchmarks/__main__.py`."""
