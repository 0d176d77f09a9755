"""What each refinement costs, in time and memory: `python -m benchmarks.refinements`.

Refines one mask of an image in memory, each method in a fresh process, and prints a table; `--write` puts it into
docs/masks.md. The SAM has random weights and the size of SAM 2.1 tiny: its answers are useless and cost as much as good
ones. Time is processor time, so that other work on the machine counts little.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from benchmarks import inputs, process
from clipseg_cli.masks import soft_maps, threshold
from clipseg_cli.settings.masks import CleanUp, Refine
from shapes.markdown import replace_section, table

PAGE = Path(__file__).parent.parent / "docs" / "masks.md"
MARKS = ("<!-- costs -->", "<!-- end of costs -->")
SIZES = {"640 x 480": (640, 480), "12 megapixels": (4000, 3000)}
METHODS: tuple[Refine, ...] = ("guided", "grabcut", "matting", "sam")


def measure(method: Refine, width: int, height: int, path: str) -> tuple[float, float]:
    """Returns the seconds of processor time that a refinement takes, and the bytes of memory that it adds.

    Loading the network counts as memory, not as time, and so does compiling the code of matting. torch does not count:
    CLIPSeg has loaded it already.
    """
    import torch

    from clipseg_cli.model.sam import Sam
    from clipseg_cli.run.refiner import Once, Refiner

    grain = np.random.default_rng(0).integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
    photo = cv2.resize(grain, (width, height), interpolation=cv2.INTER_CUBIC)
    levels = cv2.circle(np.zeros((352, 352), np.uint8), (170, 180), 70, 255, -1)
    levels = cv2.resize(cv2.GaussianBlur(levels, (0, 0), 8), (width, height), interpolation=cv2.INTER_LINEAR)
    torch.zeros(1).sum()
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    refiner = Refiner(lambda: Sam.load(path, device="cpu"))
    sam = Once(refiner, lambda: photo) if method == "sam" else None
    if sam is not None:
        refiner.get()
    if method == "matting":
        threshold.cut(soft_maps.StoredMap(levels[::8, ::8]), lambda: photo[::8, ::8], 0.3, CleanUp(method))
    began = time.process_time()
    threshold.cut(soft_maps.StoredMap(levels), lambda: photo, 0.3, CleanUp(method), sam=sam)
    seconds = time.process_time() - began
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.refinements", description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the table into docs/masks.md")
    parser.add_argument("--one", nargs=4, metavar=("METHOD", "WIDTH", "HEIGHT", "SAM"), help="measure in this process")
    given = parser.parse_args()
    if given.one:
        print(*measure(given.one[0], int(given.one[1]), int(given.one[2]), given.one[3]))
        return
    rows = []
    with tempfile.TemporaryDirectory() as name:
        sam = str(inputs.sam(Path(name)))
        for method in METHODS:
            row = [f"`{method}`"]
            for size in SIZES.values():
                words = ["-m", "benchmarks.refinements", "--one", method, *map(str, size), sam]
                seconds, memory = map(float, process.run(words).lines[-1].split())
                row += [f"{seconds:.2f}", f"{memory / 1e6:.0f}"]
            rows.append(row)
    head = ("`--refine`", *(f"{size}, {what}" for size in SIZES for what in ("seconds", "MB")))
    if given.write:
        replace_section(PAGE, table(head, rows), MARKS)
    print(table(head, rows))


if __name__ == "__main__":
    main()
