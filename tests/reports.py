"""Reports to look at, their data, and runs that were never made."""

import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pictures import SCHEMA, picture, save, until

DRAWN = """(all => all.length > 0 && all.every(each => each.dataset.drawn == each.token))
    ([...document.querySelectorAll('.card canvas')])"""


def opened(page: Any, path: Path) -> Any:
    """Opens a report and waits until all its images are drawn."""
    page.goto(path.as_uri())
    until(page, DRAWN)
    return page


def data_of(path: Any) -> dict[str, Any]:
    """The JSON data inside a report."""
    text = Path(str(path)).read_text().split('<script type="application/json" id="data">')[1].split("</script>")[0]
    return dict(json.loads(text))


def chunks_of(folder: Path) -> list[list[dict[str, Any]]]:
    """The images in each script beside a report, in their order."""
    texts = {int(re.findall(r"-(\d+)\.js$", path.name)[0]): path.read_text() for path in folder.iterdir()}
    calls = [re.fullmatch(r'clipsegChunk\("[0-9a-f]+",(\d+),(.*)\);\n', texts[at], re.DOTALL) for at in sorted(texts)]
    assert [int(call[1]) for call in calls if call] == [*range(len(texts))]
    return [json.loads(call[2]) for call in calls if call]


def forged(name: str, labels: list[str]) -> dict[str, Any]:
    """A manifest's record of an image that is gone."""
    masks = [{"label": label, "threshold": 0.3, "presence": 0.5, "area_frac": 0.1, "path": None} for label in labels]
    return SCHEMA | {"image": name, "status": "ok", "width": 4, "height": 3, "masks": masks}


def forge(run: Path, count: int) -> None:
    """Writes a run of `count` records with 16 distinct images, masks and soft maps in all."""
    rows = []
    for index in range(16):
        save(run.parent / f"imgs/{index}.png", picture(96, 64, index))
        soft = cv2.GaussianBlur(cv2.circle(np.zeros((64, 96), np.uint8), (40 + index, 32), 16, 230, -1), (9, 9), 0)
        save(run / f"soft/{index}.png", soft)
        save(run / f"masks/{index}.png", (soft > 76).astype(np.uint8) * 255)
    for index in range(count):
        image = run.parent / f"imgs/{index}.png"
        if not image.exists():
            image.hardlink_to(run.parent / f"imgs/{index % 16}.png")
        row = forged(str(image), ["disc"])
        row |= {"width": 96, "height": 64}
        files = {"path": f"masks/{index % 16}.png", "soft": f"soft/{index % 16}.png"}
        row["masks"][0] |= {"presence": index * 37 % count / count} | files
        rows.append(json.dumps(row) + "\n")
    (run / "manifest.jsonl").write_text("".join(rows))
