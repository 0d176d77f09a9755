"""`run.json`: the options and the conditions of a run. It decides in which folder a run goes on or begins."""

import json
import os
import platform
import re
import socket
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

from clipseg_cli import __version__
from clipseg_cli.errors import OutputError
from clipseg_cli.model import registry
from clipseg_cli.outputs.manifest import MANIFEST, RUN, forget
from clipseg_cli.run.job import Job
from clipseg_cli.run.request import Request
from clipseg_cli.run.summary import Summary
from clipseg_cli.settings.flag import decisive, values
from clipseg_cli.storage import paths, store

LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "opencv-python", "pillow")
LINES = 10  # differences between two runs that an error shows
RIVALS = 100  # runs that may start at the same time, each in a folder of its own


def describe(request: Request, job: Job, checkpoint: registry.Checkpoint) -> dict[str, Any]:
    """Returns the content of run.json. Everything that may differ between two runs of one command is in this file.

    `settings` has everything that affects the outputs' content: two runs that share a folder must agree on it.
    """
    model = {"name": checkpoint.name, "repo": checkpoint.repo, "revision": checkpoint.revision}
    return {
        "clipseg": __version__,
        "command": ["clipseg", *request.command],
        "model": model | {"path": None if checkpoint.repo else str(checkpoint.path)},
        "settings": settings(request, job, checkpoint),
        "own_thresholds": {each.label: each.threshold for each in job.plan.prompts if each.threshold is not None},
        "versions": {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES},
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "inputs": {option.name: value for option, value in values(request.inputs)},
        "directory": os.getcwd(),  # base of relative paths
        "host": socket.gethostname(),
        "pid": os.getpid(),
    }


def settings(request: Request, job: Job, checkpoint: registry.Checkpoint) -> dict[str, Any]:
    """Returns what affects the outputs' content, as JSON types. Options at their defaults are left out."""
    plan = job.plan
    return {
        **identity(checkpoint),
        "prompts": [
            {"label": prompt.label, "text": prompt.text, "threshold": threshold}
            | ({} if isinstance(rule, int) else {"boolean": True})
            for prompt, threshold, rule in zip(plan.prompts, plan.thresholds, job.rules, strict=True)
        ],
        "formats": list(plan.formats),
        **decisive(request.model, request.encode, request.inputs, request.masks, request.output, request.run),
        **request.query.settings(),
        **refinement(job.sam),
    }


def identity(checkpoint: registry.Checkpoint) -> dict[str, Any]:
    """Returns which model it is, as JSON types."""
    weights = checkpoint.revision or paths.identity(str(checkpoint.weights))
    return {
        "model": checkpoint.repo or (checkpoint.path.name if checkpoint.bundled else str(checkpoint.path.absolute())),
        "weights": weights[0] if checkpoint.bundled else weights,
    }


def refinement(sam: registry.Checkpoint | None) -> dict[str, Any]:
    """Returns the setting of `--refine-model`, as JSON types: nothing without `--refine sam`."""
    return {} if sam is None else {"refine_model": identity(sam)}


def earlier(out: store.AnyPath) -> dict[str, Any] | None:
    """Returns the run.json of the run in a folder: empty if it is damaged or lost, None if the folder holds no run.

    Raises OutputError if a bucket does not answer.
    """
    try:
        document = json.loads((out / RUN).read_bytes())
    except FileNotFoundError:
        return {} if (out / MANIFEST).exists() else None
    except OSError as error:
        if not isinstance(out, Path):
            raise store.failure(error, out / RUN) from error
        return {}
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def choose_folder(base: str, same: Callable[[dict[str, Any], str], bool]) -> tuple[str, bool]:
    """Returns the folder of a run among `base`, `base-2`, `base-3`, ... and whether it holds this run already.

    That is the folder that holds the run, wherever it is, otherwise the first that holds no run. `same` says whether a
    run.json in a folder is that of this run. A folder in a bucket is returned as it is.
    """
    if paths.is_url(base):
        return base, False
    base = base.rstrip("/") or base
    above, name = os.path.split(base)
    try:
        numbers = [_number(each, name) for each in os.listdir(above or os.curdir)]
    except OSError:  # the run will say what is wrong with the folder
        return base, False
    taken = set[int]()
    for number in sorted(number for number in numbers if number):
        document = earlier(Path(out := _numbered(base, number)))
        if document is not None and same(document, out):
            return out, True
        taken |= set() if document is None else {number}
    return _numbered(base, next(number for number in count(1) if number not in taken)), False


def _number(name: str, base: str) -> int:
    """Returns the number of a folder: 1 for `base`, 2 for `base-2`, ...; 0 for other names."""
    if name == base:
        return 1
    digits = name.removeprefix(f"{base}-")
    number = int(digits) if digits != name and digits.isascii() and digits.isdigit() and len(digits) < 10 else 0
    return number if number > 1 and digits == str(number) else 0


def _numbered(base: str, number: int) -> str:
    return base if number == 1 else f"{base}-{number}"


def take_folder(base: str, document: dict[str, Any], resume: bool) -> tuple[str, str]:
    """Takes the folder of a run that names none, as `choose_folder`; returns it, and a note for the user or "".

    A new run is in its folder's run.json from then on, so that no other run that starts at the same time takes the
    folder. Without `resume`, a run that has no folder yet takes `base`, whatever that holds. Raises OutputError.
    """
    content = to_json(document)
    now = json.loads(content)["settings"]
    for _ in range(RIVALS):
        out, mine = choose_folder(base, lambda there, _: there.get("settings") == now)
        if not mine and not resume:
            return base, ""
        if mine:
            return out, "" if out == base else f"this run is in {out}"
        store.check(Path(out))
        if store.create(Path(out) / RUN, content):
            break
    return out, "" if out == base else f"{base} holds a run with other settings: this run goes to {out}"


def admit(out: store.AnyPath, document: dict[str, Any], resume: bool) -> bool:
    """Checks that a run may write to `out`. Without `resume`, deletes the manifest and run.json of an earlier run.

    Returns False if a run may have been killed there and left temporary files. Raises OutputError that lists the
    differences if `out` holds a run with other settings.
    """
    if not resume:
        forget(out)
        return False
    there = earlier(out)
    if there is None:
        return True
    before, now = there.get("settings"), json.loads(to_json(document))["settings"]
    if before != now:
        lines = _difference(before, now) if isinstance(before, dict) else ["  its run.json is damaged or lost"]
        raise OutputError(
            f"{out} holds a run with other settings:\n"
            + "\n".join(lines)
            + "\nname another folder with -o, or replace that run with --overwrite"
        )
    if "seconds" not in there:
        store.sweep(out)
    return "seconds" in there


def check_names(out: store.AnyPath, patterns: Sequence[re.Pattern[str]]) -> None:
    """Checks that a folder without a run holds no file that has the name of an output. Raises OutputError.

    `patterns` are what --name and --layout call the outputs. Other files of the user may lie in the folder, which stay.
    In a bucket nothing is checked.
    """
    if not patterns or not isinstance(out, Path) or earlier(out) is not None:
        return
    for folder, _, names in os.walk(out):
        above = os.path.relpath(folder, out).replace(os.sep, "/")
        for name in names:
            path = name if above == "." else f"{above}/{name}"
            if any(pattern.fullmatch(path) for pattern in patterns):
                raise OutputError(
                    f"{out} holds {paths.escape(path)}, which could be an output of this run, but no run: choose "
                    "another --out or --name, or move such files away"
                )


def holds(out: store.AnyPath, content: bytes) -> bool:
    """Returns whether run.json has this content. Another run that began meanwhile has replaced it."""
    try:
        return (out / RUN).read_bytes() == content
    except OSError:
        return False


def _difference(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Returns a line for each setting that differs, and for each prompt; at most LINES of them."""
    lines = [
        line
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key)
        for line in (_prompts if key == "prompts" else _setting)(key, before.get(key), now.get(key))
    ]
    more = [f"  ... and {len(lines) - LINES} more differences"] if len(lines) > LINES else []
    return lines[:LINES] + more


def _setting(name: str, before: Any, now: Any) -> list[str]:
    there, here = (json.dumps(value, ensure_ascii=False) for value in (before, now))
    return [f"  {name}: {there} there, {here} now"]


def _prompts(name: str, before: Any, now: Any) -> list[str]:
    """Returns a line for each prompt that only one run has, and for each value of a prompt that differs."""
    try:
        there, here = ({row["label"]: row for row in rows} for rows in (before, now))
    except (TypeError, KeyError):  # not written by this program
        return _setting(name, before, now)
    lines = [f"  prompt {paths.escape(label)}: only there" for label in there if label not in here]
    lines += [f"  prompt {paths.escape(label)}: only now" for label in here if label not in there]
    for label in (label for label in there if label in here):
        row, other = there[label], here[label]
        for key in sorted({*row, *other}):
            if row.get(key) != other.get(key):
                lines += _setting(f"{key} of prompt {paths.escape(label)}", row.get(key), other.get(key))
    return lines or [f"  {name}: in another order"]


def ending(summary: Summary) -> dict[str, Any]:
    """Returns what run.json gets when a run has ended: counts, seconds, and what was found."""
    return {"images": summary.images(), "seconds": round(summary.seconds, 3), "summary": summary.document()}


def to_json(document: dict[str, Any]) -> bytes:
    """Returns the bytes of run.json."""
    return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")
