"""`clipseg find` ranks images by their presence scores."""

import json
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from pictures import SAMPLES, Program, picture, save


def shows_a_red_circle() -> dict[str, bool]:
    """Tells of each sample whether it shows one, by the ground truth."""
    truths = {path.stem: cv2.imread(str(path), 0) for path in (SAMPLES / "masks/a-red-circle").iterdir()}
    return {path.stem: bool(truths.get(path.stem, np.zeros(1)).any()) for path in (SAMPLES / "images").iterdir()}


def test_images_that_show_the_object_come_first(clipseg: Program) -> None:
    """`--print paths` prints them in this order. `--json` prints the manifest's records, ranked."""
    command = f"clipseg find {SAMPLES}/images -p 'a red circle'"
    paths, shows = clipseg(f"{command} --print paths").stdout.splitlines(), shows_a_red_circle()
    assert len(paths) == len(shows) and all(shows[Path(path).stem] for path in paths[:3])
    rows = [json.loads(line) for line in clipseg(f"{command} --json -q").stdout.splitlines()]
    assert [row["image"] for row in rows] == paths
    presences = [row["masks"][0]["presence"] for row in rows]
    assert presences == sorted(presences, reverse=True)
    assert all(row["masks"][0]["path"] == "" for row in rows), "nothing is written"


def test_find_leaves_out_low_scores_and_names_failures(clipseg: Program, tmp_path: Path) -> None:
    """`--min-presence` filters. A broken image is named and the exit code is 3. No output folder appears."""
    save(tmp_path / "imgs/disc.png", picture())
    Image.new("RGB", (96, 96), (200, 205, 210)).save(tmp_path / "imgs/blank.png")
    (tmp_path / "imgs/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    done = clipseg("clipseg find imgs -p 'a red circle' --min-presence 0.5 --print paths", expect=3)
    assert done.stdout.splitlines() == ["imgs/disc.png"] and "broken.png" in done.stderr
    assert not (tmp_path / "clipseg-out").exists()


def test_several_prompts_give_a_table(clipseg: Program, tmp_path: Path) -> None:
    """`--print none` shows the ranking for people: a column per label."""
    save(tmp_path / "imgs/disc.png", picture())
    table = clipseg("clipseg find imgs/disc.png -p red -p circle --print none -q").stdout
    assert "presence" in table and "disc.png" in table and "circle" in table
