"""Times the guided filter on an image of 12 megapixels, on one core: `python -m benchmarks.guided_filter`.

Prints a table. The filter is called as `--refine guided` calls it, on an image and a soft map in memory.
"""

import argparse
import resource
import statistics
import time
from collections.abc import Callable

import cv2
import numpy as np

from clipseg_cli.masks.guided import guided


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.guided_filter", description=__doc__)
    parser.add_argument("--width", type=int, default=4000)
    parser.add_argument("--height", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    cv2.setNumThreads(1)
    size = given.width, given.height
    rng = np.random.default_rng(0)
    grain = rng.integers(0, 256, (given.height // 16 + 1, given.width // 16 + 1, 3), dtype=np.uint8)
    image = cv2.resize(grain, size, interpolation=cv2.INTER_CUBIC)
    soft_map = cv2.resize(rng.integers(0, 256, (22, 22), dtype=np.uint8), size, interpolation=cv2.INTER_LINEAR)
    print(f"{given.width} x {given.height}, one core, median of {given.rounds}\n")
    print("| operation | seconds | CPU seconds |\n| --- | --- | --- |")
    wall, cpu = durations(lambda: guided(image, soft_map), given.rounds)
    print(f"| `--refine guided` | {wall:.2f} | {cpu:.2f} |")
    print(
        f"\npeak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB, image and soft map included"
    )


def durations(work: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Returns the median wall-clock and CPU seconds of a call. A first call, which warms up, is not measured."""
    work()
    rows = []
    for _ in range(rounds):
        began, busy = time.perf_counter(), time.process_time()
        work()
        rows.append((time.perf_counter() - began, time.process_time() - busy))
    return statistics.median(row[0] for row in rows), statistics.median(row[1] for row in rows)


if __name__ == "__main__":
    main()
