"""Fuzzing: however a file is damaged, loading it gives pixels or a known error, soon and in little memory."""

import json
import os
import random
import resource
import subprocess
import sys
import time

import numpy as np
import pytest

from clipseg_cli.errors import ERROR_CLASSES, ImageError
from image_files import IMAGE_KINDS, VALID, read, saved

SECONDS = float(os.environ.get("FUZZ_SECONDS", "1"))  # per kind of file
SLOW, HUNG = 10.0, 60.0  # seconds: for one file on a busy machine, and for a process beyond SECONDS
MEMORY = 300_000  # kilobytes more than at the start


def flip(form: str, seconds: float, seed: int) -> dict[str, object]:
    """Loads damaged files of a kind for some time, and counts the results by error class. Raises other errors."""
    rng, pixels = random.Random(f"{form}{seed}"), np.random.default_rng(seed)
    photo = np.cumsum(pixels.integers(-9, 10, (48, 64, 3)), axis=1).clip(0, 255).astype(np.uint8)
    data = saved(photo, form.strip(), **VALID[form])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    counts: dict[str, int] = {}
    until, slowest = time.monotonic() + seconds, 0.0
    while time.monotonic() < until:
        damaged = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 4, 16))):
            where = rng.randrange(len(damaged) if rng.random() < 0.5 else min(len(damaged), 200))
            damaged[where] = rng.choice((0, 255, damaged[where] ^ 1 << rng.randrange(8), rng.randrange(256)))
        if rng.random() < 0.1:
            cut = rng.randrange(len(damaged))
            del damaged[cut : cut + rng.randrange(64)]
        began = time.monotonic()
        try:
            image = read(bytes(damaged), 10_000_000)
            assert image.pixels.dtype == np.uint8 and image.pixels.ndim == 3 and image.pixels.shape[2] == 3
            kind = "ok"
        except ImageError as error:
            kind = error.kind
        counts[kind] = counts.get(kind, 0) + 1
        slowest = max(slowest, time.monotonic() - began)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"counts": counts, "slowest": slowest, "memory": memory}


def test_every_format_is_fuzzed() -> None:
    """The table of valid files names every kind of still image that has a decoder."""
    assert {form.strip() for form in VALID} == set(IMAGE_KINDS)


@pytest.mark.parametrize(
    "form", [pytest.param(form, marks=[] if form in ("PNG", "TIFF    ") else pytest.mark.slow) for form in VALID]
)
def test_flipped_bytes_give_pixels_or_an_error(form: str) -> None:
    """In a separate process, for a bounded time: no other exception, no crash, no hang, at most 300 MB more.

    Neither Python nor a library writes anything on stderr, except OpenEXR, whose messages cannot be turned off.
    """
    code = "import json, sys, test_fuzz as t; print(json.dumps(t.flip(sys.argv[1], float(sys.argv[2]), 5)))"
    done = subprocess.run(
        [sys.executable, "-c", code, form, str(SECONDS)], cwd=os.path.dirname(__file__), capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        timeout=SECONDS + HUNG, check=False,
    )  # fmt: skip
    said = [line for line in done.stderr.splitlines() if not line.startswith("<Python Stream>: (EXR_ERR_")]
    assert (done.returncode, said) == (0, [])
    result = json.loads(done.stdout)
    assert set(result["counts"]) <= {"ok", *ERROR_CLASSES} - {"internal"} and sum(result["counts"].values()) > 10
    assert result["slowest"] < SLOW and result["memory"] < MEMORY, result
