"""What each refinement costs, in time and memory: `python -m benchmarks.refinements`.

Runs `clipseg segment` with the bundled model on drawn images in which it finds one object, and prints a table.
`--write` puts it into docs/masks.md. The SAM has random weights and the size of SAM 2.1 tiny: its answers are useless
and cost as much as good ones. Time is processor time, so that other work on the machine counts little.
"""

import argparse
import tempfile
from pathlib import Path

from benchmarks import inputs, process
from shapes.markdown import replace_section, table

PAGE = Path(__file__).parent.parent / "docs" / "masks.md"
MARKS = ("<!-- costs -->", "<!-- end of costs -->")
SIZES = {"640 x 480": (640, 480), "12 megapixels": (4000, 3000)}
FEW, MANY = 2, 4  # images per run: the difference has no start-up in it
METHODS = ("none", "guided", "grabcut", "matting", "sam")


def measure(folder: Path, width: int, height: int, method: str, sam: Path) -> tuple[float, float]:
    """Returns the processor time in seconds for one image, and the peak memory of the larger run in bytes."""
    images = inputs.drawings(folder, width, height, MANY)
    runs = []
    for count in (FEW, MANY):
        words = ["-m", "clipseg_cli", "segment", *map(str, images[:count]), "-m", "shapes", "-p", "a red circle"]
        words += ["--refine", method, "--refine-model", str(sam), "-f", "mask", "-q", "-j", "1"]
        runs.append(process.run([*words, "-o", str(folder / f"{width}-{method}-{count}")]))
    return (runs[1].cpu - runs[0].cpu) / (MANY - FEW), runs[1].memory


def as_markdown(rows: dict[str, list[tuple[float, float]]]) -> str:
    """Returns the table: for each method and size, the seconds beyond `none`, and the peak memory."""
    header = ("`--refine`", *(f"{size}: {what}" for size in SIZES for what in ("added seconds", "peak MB")))
    plain = rows["none"]
    cells = [
        (
            f"`{method}`",
            *(
                cell
                for (seconds, memory), (base, _) in zip(found, plain, strict=True)
                for cell in (f"{seconds - base:.2f}" if method != "none" else "0", f"{memory / 1e6:.0f}")
            ),
        )
        for method, found in rows.items()
    ]
    return table(header, cells)


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.refinements", description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the table into docs/masks.md")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sam = inputs.sam(folder)
        rows = {method: [measure(folder, *size, method, sam) for size in SIZES.values()] for method in METHODS}
    text = as_markdown(rows)
    if given.write:
        replace_section(PAGE, text, MARKS)
    print(text)


if __name__ == "__main__":
    main()
