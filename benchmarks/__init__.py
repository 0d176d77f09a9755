"""Speed and memory of `clipseg` compared with code that uses Hugging Face's modules: see `benchmarks/__main__.py`."""
