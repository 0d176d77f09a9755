"""Whether two checkouts of the program write the same bytes, from the same command lines and images.

    python tests/compare_versions.py OTHER_CHECKOUT [COMMAND_NUMBER ...]

Runs every command line of COMMANDS with the package of this checkout and with that of the other, in two equal folders
of images (the samples, and one file of every kind and of every kind of damage), and compares all that they leave and
print. `run.json` tells times and is not compared. The wording of notes and of error messages may differ: in the
manifest and on stdout they are compared by their number and their error class.
"""

import filecmp
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import image_files
from pictures import ROOT, SAMPLES, picture, save

UNCOMPARED = ("run.json", ".clipseg-claims")  # times, and an empty file
BOTH = "-p 'a red circle' -p star='a blue star'"
COMMANDS = (
    f"segment samples {BOTH} -f mask,soft,soft16,overlay,cutout,labels,npz,svg -o out",
    f"segment samples {BOTH} -f coco,yolo,voc,labelme,webdataset -o out",
    f"segment samples {BOTH} -f coco,yolo,svg --polygons --backdrop '#336699' -f cutout -o out",
    f"segment samples {BOTH} -f mask -t otsu -t star=p90 --open 2 --close 3 --fill-holes all --min-area 0.2% -o out",
    f"segment samples {BOTH} -f mask,cutout --refine guided --peak 0.6 --grow 3 --feather 2.5 -o out",
    f"segment samples {BOTH} -f mask,cutout --refine grabcut --keep-largest 1 --min-area 50 -o out",
    f"segment samples {BOTH} -f mask,cutout --refine matting --empty skip --min-presence 0.4 -o out",
    f"segment samples {BOTH} -f mask,labels --mode labels --background 0.3 --invert --grow -2 -o out",
    f"segment samples {BOTH} -f mask,soft --tile 2 --flip --similarity -o out",
    "segment samples --expr 'both=a red circle AND NOT (star OR blue)' --template 'photo of a {}' -f mask,soft -o out",
    "segment samples -p circle -f soft --size 96 -b 3 --json -o out",
    "segment samples -p circle -o out --print paths --features kept; segment samples -p star -o two --features kept",
    "segment samples -p circle -f mask -o out --dtype bf16 --backend transformers --limit 2",
    "oneshot samples --support exemplars/blue_star.png --support-mask exemplars/blue_star_mask.png -f mask,soft -o out",
    "oneshot samples --support it=exemplars/red_circle.png --support-box 10,10,80,80 -p it=circle --mix 0.3 "
    "--highlight dim --show-exemplar seen.png -f mask,soft -o out",
    "segment files -p 'a red circle' -f mask,soft,overlay -o out",
    "segment files/*.png samples -p circle -f mask --shard 1/3 -o out; segment files -p circle -n",
    "segment samples/desk.png -p 'a red circle' -o - -f mask",
    f"segment samples {BOTH} -f soft -o run; post run -t 0.4 --fill-holes all --refine guided -f mask,coco -o out",
    "find samples -p 'a red circle' -p star --json; find samples -p star --print paths --min-presence 0.5",
    "embed -p 'a red circle' --support s=exemplars/blue_star.png -o e.safetensors; "
    "segment samples --embedding e.safetensors -f mask -o out",
    "segment samples -p a-red-circle='a red circle' -f mask,soft -o out; eval out masks --json; "
    "calibrate out masks -o thresholds.csv; status out --json; merge out",
    "segment . -p circle --max-depth 1 --exclude 'files' -o out; segment nowhere.jpg samples/desk.png -p star -o two",
)


def prepare(folder: Path) -> None:
    """Fills a folder with images: `samples`, `masks`, `exemplars`, and `files` of every kind, whole and damaged."""
    for name, source in (("samples", "images"), ("masks", "masks"), ("exemplars", "exemplars")):
        subprocess.run(["cp", "-r", SAMPLES / source, folder / name], check=True)
    files = folder / "files"
    files.mkdir()
    image = picture(160, 120, 1)
    for number, (form, options) in enumerate(image_files.VALID.items()):
        data = image_files.saved(image, form.strip(), **options)
        kind = form.strip().lower()
        (files / f"{number:02}.{ {'jpeg2000': 'jp2'}.get(kind, kind) }").write_bytes(data)
        (files / f"{number:02}-cut.{ {'jpeg2000': 'jp2'}.get(kind, kind) }").write_bytes(data[: len(data) * 2 // 3])
    for mode in ("L", "LA", "RGBA", "P", "1", "I;16", "CMYK"):
        suffix = "jpg" if mode == "CMYK" else "png"
        pixels = Image.fromarray(image)
        made = Image.fromarray(np.uint16(image[..., 0]) * 257) if mode == "I;16" else pixels.convert(mode)
        made.save(files / f"mode-{mode.replace(';', '')}.{suffix}")
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[274] = orientation
        Image.fromarray(image).save(files / f"turned-{orientation}.jpg", exif=exif)
    (files / "empty.jpg").write_bytes(b"")
    (files / "text.png").write_text("no image")
    (files / "same.jpg").write_bytes((files / "turned-1.jpg").read_bytes())
    save(files / "same.png", picture(64, 48, 2))
    save(files / "sub/deep/\u00e9 x.png", picture(48, 64, 3))
    stamp = 1_700_000_000
    for path in folder.rglob("*"):
        os.utime(path, (stamp, stamp))


def run(checkout: Path, folder: Path, line: str) -> list[str]:
    """Runs the command lines of one entry; returns the exit codes and what went to stdout."""
    folder.mkdir()
    prepare(folder)
    environment = {**os.environ, "PYTHONPATH": str(checkout), "CLIPSEG_MODEL": "shapes"}
    said = []
    for words in line.split("; "):
        command = f"{sys.executable} -m clipseg_cli {words}"
        done = subprocess.run(["bash", "-c", command], cwd=folder, env=environment, capture_output=True, check=False)
        said.append(str(done.returncode))
        said += [str(normal(each)) for each in done.stdout.split(b"\n")]
    return said


def normal(line: bytes) -> Any:
    """A line of a manifest without the wording of its notes and of its error; any other line as it is."""
    try:
        record = json.loads(line)
    except ValueError:
        return line
    if isinstance(record, dict):
        if "notes" in record:
            record["notes"] = len(record["notes"])
        if isinstance(record.get("error"), dict):
            record["error"].pop("message", None)
    return record


def content(path: Path) -> Any:
    """What is compared of a file."""
    data = path.read_bytes()
    if path.suffix == ".jsonl":
        return [normal(line) for line in data.split(b"\n")]
    if path.suffix == ".safetensors":  # its metadata come in another order in every process
        end = 8 + int.from_bytes(data[:8], "little")
        return json.loads(data[8:end]), data[end:]
    return data


def difference(here: Path, there: Path) -> list[str]:
    """The files that only one tree has, or that differ."""
    trees = [
        {path.relative_to(top): path for path in top.rglob("*") if path.is_file() and path.name not in UNCOMPARED}
        for top in (here, there)
    ]
    lone = [f"only in one: {path}" for path in sorted(trees[0].keys() ^ trees[1].keys())]
    both = sorted(trees[0].keys() & trees[1].keys())
    unequal = [path for path in both if not filecmp.cmp(trees[0][path], trees[1][path], shallow=False)]
    return lone + [f"differs: {path}" for path in unequal if content(trees[0][path]) != content(trees[1][path])]


def main() -> int:
    """Compares; prints a line per command line, and exits 1 where anything differs."""
    other, chosen = Path(sys.argv[1]).resolve(), [int(number) for number in sys.argv[2:]]
    wrong = files = 0
    for number, line in enumerate(COMMANDS):
        if chosen and number not in chosen:
            continue
        with tempfile.TemporaryDirectory() as place:
            here, there = Path(place, "a", "work"), Path(place, "b", "work")
            for top in (here, there):
                top.parent.mkdir()
            said = run(ROOT, here, line), run(other, there, line)
            found = difference(here, there)
            found += [f"stdout: {a} / {b}" for a, b in zip(*said, strict=False) if a != b]
            found += ["stdout has another length"] if len(said[0]) != len(said[1]) else []
            count = sum(path.is_file() for path in here.rglob("*"))
        files += count
        wrong += bool(found)
        print(
            f"{'DIFFERS' if found else 'equal':8}{number:3}  {count} files  clipseg {line}", *found[:12], sep="\n    "
        )
    print(f"{files} files compared, {wrong} command lines differ")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
