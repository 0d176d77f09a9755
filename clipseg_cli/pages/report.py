"""The report: an HTML page of a run, or of two runs side by side, written in bounded memory.

All text reaches the page as JSON inside a script element and is inserted as text. The page loads nothing from the
network: up to ONE_FILE images it is one self-contained file; above, the pixels are in a folder beside it.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

from clipseg_cli.inputs.frames.reader import FrameReader
from clipseg_cli.outputs import manifest
from clipseg_cli.outputs.record import key_of, readable_name
from clipseg_cli.pages.report_compare import Comparison
from clipseg_cli.pages.report_files import ReportFiles
from clipseg_cli.pages.report_images import Look, Record, Run, image, read_run
from clipseg_cli.run.engines.crew import cores
from clipseg_cli.storage import store
from clipseg_cli.storage.store import AnyPath

LARGE, SMALL, FEW = 640, 256, 200  # pixels: the longer side of a thumbnail, LARGE for up to FEW images, else SMALL
BINS = 20  # of the presence histogram
BATCH = 32  # images worked on at once
FAILURES = 500  # failed images that the page lists


def write(
    folder: AnyPath, note: Callable[[str], None], target: AnyPath | None = None, other: AnyPath | None = None
) -> AnyPath:
    """Writes the report of the run in `folder`, there or at `target`, and returns its path.

    With `other`, a second run of the same images, the page compares the two. `note` gets lines for the user. Raises
    OutputError, and UsageError if there is no run.
    """
    target = target or folder / ("report.html" if other is None else "compare.html")
    folders = [folder] if other is None else [folder, other]
    with contextlib.ExitStack() as stack:
        runs = [read_run(each, stack.enter_context(manifest.Index(each / manifest.MANIFEST))) for each in folders]
        pairs = _Pairs(runs)
        store.check(target.parent)
        labels = list(dict.fromkeys(label for run in runs for label in run.labels))
        page = Path(target.parent).absolute() if isinstance(target, Path) else None
        reader = stack.enter_context(FrameReader(near=cores()))
        look = Look(labels, LARGE if pairs.count <= FEW else SMALL, page, reader, len(runs) > 1)
        stamp = hashlib.sha256("".join(run.records.digest for run in runs).encode()).hexdigest()[:16]
        files = stack.enter_context(ReportFiles(target, pairs.count, stamp))
        summary, comparison = _Summary(labels), Comparison(len(labels))
        missing = 0
        for records, found in _images(pairs, runs, look):
            files.add(found)
            missing += found.missing
            summary.add(records)
            if len(runs) > 1:
                comparison.add(found.row)
        about = _about(runs, pairs.failures, pairs.failed) | {"labels": summary.labels()}
        files.finish(about | ({"compare": comparison.document()} if len(runs) > 1 else {}))
    if missing:
        note(f"{missing} of {pairs.count} images have moved or changed: the report shows their masks on grey")
    if files.beside:
        note(f"{pairs.count} images are too many for one file: keep the folder {files.folder} beside {target}")
    if len(runs) > 1:
        note(f"the masks of {comparison.different} of {comparison.both} images differ")
    return target


class _Pairs:
    """The records of each image in the runs; lists the failed images while it counts."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = runs
        self.second = {runs[1].key(name): name for name in runs[1].records} if len(runs) > 1 else {}
        self.first = {runs[0].key(name) for name in runs[0].records} if len(runs) > 1 else set()
        self.failures: list[dict[str, Any]] = []
        self.failed = [0] * len(runs)
        self.count = 0  # of images that a run segmented
        for records in self._all():
            ok = [record is not None and record["status"] == "ok" for record in records]
            self.count += any(ok)
            for index, record in enumerate(records):
                if record is not None and not ok[index]:
                    self.failed[index] += 1
                    if len(self.failures) < FAILURES:
                        self.failures.append({"name": readable_name(key_of(record)), "run": index} | record["error"])

    def __iter__(self) -> Iterator[list[Record | None]]:
        """Yields each image's record in every run, None where the run did not segment it."""
        for records in self._all():
            done = [record if record is not None and record["status"] == "ok" else None for record in records]
            if any(record is not None for record in done):
                yield done

    def _all(self) -> Iterator[list[Record | None]]:
        one, two = self.runs[0], self.runs[-1]
        for name in one.records:
            other = self.second.get(one.key(name)) if two is not one else None
            yield [one.records[name], *([None if other is None else two.records[other]] if two is not one else [])]
        for key, name in self.second.items():
            if key not in self.first:
                yield [None, two.records[name]]


def _images(pairs: _Pairs, runs: Sequence[Run], look: Look) -> Iterator[tuple[list[Record | None], Any]]:
    """Yields the records and the page's image of each pair, in order, a few at once in threads."""
    rest = iter(pairs)
    with ThreadPoolExecutor(cores()) as pool:
        while batch := list(islice(rest, BATCH)):
            yield from zip(batch, pool.map(lambda records: image(records, runs, look), batch), strict=True)


class _Summary:
    """What the page's head says of each label."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.thresholds: list[float | None] = [None] * len(names)
        self.varies = [False] * len(names)
        self.histograms = [[0] * BINS for _ in names]
        self._index = {name: index for index, name in enumerate(names)}

    def add(self, records: Sequence[Record | None]) -> None:
        """Counts one image."""
        counted: set[int] = set()
        for record in records:
            for mask in () if record is None else record["masks"]:
                index = self._index[mask["label"]]
                if self.thresholds[index] is None:
                    self.thresholds[index] = mask["threshold"]
                self.varies[index] |= self.thresholds[index] != mask["threshold"]
                if index not in counted:  # of two runs, the first that has the label counts
                    self.histograms[index][min(BINS - 1, max(0, int(mask["presence"] * BINS)))] += 1
                    counted.add(index)

    def labels(self) -> list[dict[str, Any]]:
        """Returns name, threshold and presence histogram of each label.

        `varies`: images or runs have different thresholds.
        """
        rows = zip(self.names, self.thresholds, self.varies, self.histograms, strict=True)
        return [
            {"name": name, "threshold": threshold, "varies": varies, "histogram": histogram}
            for name, threshold, varies, histogram in rows
        ]


def _about(runs: Sequence[Run], failures: list[dict[str, Any]], failed: list[int]) -> dict[str, Any]:
    """Returns what the page says of the runs, and the failed images. The id keeps reviews of different runs apart."""
    names = [str(run.folder.absolute() if isinstance(run.folder, Path) else run.folder) for run in runs]
    text = "".join(f"{name}{run.about.get('started')}" for name, run in zip(names, runs, strict=True))
    return {
        "id": hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16],
        "runs": [
            {
                "name": str(run.folder).encode("utf-8", "replace").decode(),
                "model": run.about.get("model", {}).get("name", "?"),
                "soft": run.soft,
                "options": run.options,
                "done": run.done,
                "failed": failed[index],
            }
            for index, run in enumerate(runs)
        ],
        "failures": failures,
    }
