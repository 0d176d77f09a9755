"""The status of a run over all its shards, and their merge into one sorted manifest."""

import json
import os
from collections import Counter
from dataclasses import dataclass
from typing import Any

from clipseg_cli.errors import UsageError
from clipseg_cli.inputs.finding.discovery import discover
from clipseg_cli.outputs import manifest
from clipseg_cli.outputs.manifest import MANIFEST, RUN
from clipseg_cli.outputs.record import readable_name
from clipseg_cli.outputs.writers import per_run
from clipseg_cli.settings.flag import fill
from clipseg_cli.settings.inputs import InputOptions
from clipseg_cli.storage import paths
from clipseg_cli.storage.lines import open_lines
from clipseg_cli.storage.store import AnyPath


@dataclass(frozen=True, slots=True)
class Status:
    """Counts of images. `missing` is None if the inputs were a list on stdin or cannot be searched from here."""

    done: int
    failed: dict[str, int]  # by error class
    missing: tuple[str, ...] | None
    names: tuple[str, ...]  # of the failed images

    def document(self) -> dict[str, Any]:
        """Returns the status as JSON types."""
        failed = dict(sorted(self.failed.items()))
        missing = None if self.missing is None else [readable_name(name) for name in self.missing]
        failures = [*map(readable_name, self.names)]
        return {"done": self.done, "failed": failed, "missing": missing, "failures": failures}


def status(out: AnyPath) -> Status:
    """Returns what is done, failed and missing under `out`. Raises UsageError if there is no run."""
    records = _records(out)
    failed = {name: record["error"]["class"] for name, record in records.items() if record["status"] != "ok"}
    missing = None
    inputs = _inputs(out)
    if inputs is not None:
        names = (source.key for source in discover(inputs, None, str(out)))
        missing = tuple(name for name in names if name not in records)
    return Status(len(records) - len(failed), Counter(failed.values()), missing, tuple(failed))


def merge(out: AnyPath) -> int:
    """Merges the shards of a run and returns the number of images. Raises UsageError if there is no run.

    The manifest gets each image once, sorted by name, so equal runs have equal manifests whatever their shards. Files
    that cover all images, like coco.json, are written again.
    """
    records = _records(out)
    run = json.loads((out / RUN).read_bytes())
    with open_lines(out / MANIFEST) as lines:
        lines.rewrite(manifest.in_order)
    labels = [prompt["label"] for prompt in run["settings"]["prompts"]]
    per_run.assemble(out, run["settings"]["formats"], labels, inputs=run.get("inputs", {}).get("inputs", ()))
    return len(records)


def _records(out: AnyPath) -> dict[str, dict[str, Any]]:
    """Returns the latest record of each image, by name."""
    if not (out / RUN).is_file():
        raise UsageError(f"{out} holds no run: name the output folder of `clipseg segment`")
    return manifest.latest(out / MANIFEST)


def _inputs(out: AnyPath) -> InputOptions | None:
    """Returns the inputs of the run, for all shards; None if they cannot be searched again from here."""
    try:
        run = json.loads((out / RUN).read_bytes())
        given: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in run["inputs"].items()
        }
        inputs = fill(InputOptions, given | {"shard": (0, 1)})
    except (OSError, ValueError, KeyError, TypeError):
        return None
    here = run.get("directory") in (None, os.getcwd()) or all(
        paths.is_url(path) or os.path.isabs(path) for path in inputs.inputs
    )
    stdin = "-" in inputs.inputs or inputs.files_from == "-" or not (inputs.inputs or inputs.files_from)
    return inputs if here and not stdin else None
