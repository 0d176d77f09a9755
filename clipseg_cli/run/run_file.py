"""`run.json`: the options and the conditions of a run, and the check before it is resumed."""

import json
import os
import platform
import socket
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from clipseg_cli import __version__
from clipseg_cli.errors import OutputError
from clipseg_cli.model import registry
from clipseg_cli.outputs.manifest import MANIFEST, RUN, forget
from clipseg_cli.run.pipeline import Job
from clipseg_cli.run.request import Request
from clipseg_cli.settings.flag import decisive
from clipseg_cli.storage import paths, store

LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "opencv-python", "pillow")


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
        "inputs": asdict(request.inputs),
        "directory": os.getcwd(),  # base of relative paths
        "host": socket.gethostname(),
        "pid": os.getpid(),
    }


def settings(request: Request, job: Job, checkpoint: registry.Checkpoint) -> dict[str, Any]:
    """Returns what affects the outputs' content, as JSON types. Options at their defaults are left out."""
    bundled = checkpoint.path == registry.BUNDLED
    weights = checkpoint.revision or paths.identity(str(checkpoint.weights))
    plan = job.plan
    return {
        "model": checkpoint.repo or ("shapes" if bundled else str(checkpoint.path.absolute())),
        "weights": weights[0] if bundled else weights,
        "prompts": [
            {"label": prompt.label, "text": prompt.text, "threshold": threshold}
            | ({} if isinstance(rule, int) else {"boolean": True})
            for prompt, threshold, rule in zip(plan.prompts, plan.thresholds, job.rules, strict=True)
        ],
        "formats": list(plan.formats),
        **decisive(request.model, request.encode, request.inputs, request.masks, request.output, request.run),
        **request.query.settings(),
    }


def admit(out: store.AnyPath, document: dict[str, Any], resume: bool) -> bool:
    """Checks that a run may write to `out`. Without `resume`, deletes the manifest and run.json of an earlier run.

    Returns False if a run may have been killed there and left temporary files. Raises OutputError that lists the
    differences if `out` holds a run with other settings.
    """
    if not resume:
        forget(out)
        return False
    ended = False
    try:
        earlier = json.loads((out / RUN).read_bytes())
        before = dict(earlier["settings"])
        ended = "seconds" in earlier
    except FileNotFoundError:
        if not (out / MANIFEST).exists():
            return True
        before = {}
    except OSError as error:
        if not isinstance(out, Path):
            raise store.failure(error, out / RUN) from error
        before = {}
    except (ValueError, KeyError, TypeError):
        before = {}
    now = json.loads(to_json(document))["settings"]
    if before != now:
        raise OutputError(
            f"{out} holds a run with other settings; choose another --out, or use --overwrite:\n"
            + "\n".join(_difference(before, now))
        )
    if not ended:
        store.sweep(out)
    return ended


def holds(out: store.AnyPath, content: bytes) -> bool:
    """Returns whether run.json has this content. Another run that began meanwhile has replaced it."""
    try:
        return (out / RUN).read_bytes() == content
    except OSError:
        return False


def _difference(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    return [
        f"  {key}: {json.dumps(before.get(key), ensure_ascii=False)} there, "
        f"{json.dumps(now.get(key), ensure_ascii=False)} now"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key)
    ]


def to_json(document: dict[str, Any]) -> bytes:
    """Returns the bytes of run.json."""
    return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")
