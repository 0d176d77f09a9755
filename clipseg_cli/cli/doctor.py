"""`clipseg doctor`: checks versions, device and weights, and runs a numeric self-test."""

import platform
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from clipseg_cli import __version__
from clipseg_cli.cli.terminal import say
from clipseg_cli.errors import ClipsegError
from clipseg_cli.settings.flag import Flag
from clipseg_cli.settings.model import Dtype

# Lowest IoU that passes: of the bundled model's mask with a drawn disc, and of the masks of this device and of the CPU.
SELF_TEST_IOU = 0.95


def doctor(
    device: Annotated[str, Flag("The device to test: auto, cpu, cuda, cuda:1 or mps.", panel="Model")] = "auto",
    dtype: Annotated[Dtype, Flag("The precision to test.", panel="Model")] = "auto",
) -> None:
    """Checks the installation.

    Shows versions, device, precision and weights, and runs a numeric self-test. Exits 1 if a check fails.
    """
    failed = False
    for finding in examine(device, dtype):
        mark = {True: "ok  ", False: "FAIL", None: "    "}[finding.ok]
        say(f"{mark} {finding.what}: {finding.value}")
        failed |= finding.ok is False
    raise typer.Exit(1 if failed else 0)


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. `ok` is None if there is nothing to check."""

    what: str
    value: str
    ok: bool | None = None


def examine(device: str = "auto", dtype: Dtype = "auto") -> Iterator[Finding]:
    """Yields the findings one by one. A failed check is a finding, never an exception."""
    from importlib.metadata import PackageNotFoundError, version

    from clipseg_cli.model import registry
    from clipseg_cli.run.run_file import LIBRARIES

    yield Finding("clipseg", __version__)
    yield Finding("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    for library in (*LIBRARIES, "huggingface_hub"):
        try:
            yield Finding(library, version(library), True)
        except PackageNotFoundError:
            yield Finding(library, "not installed", False)
    try:
        yield Finding("ray", version("ray"), True)
    except PackageNotFoundError:
        yield Finding("ray", "not installed; --engine ray needs it: pip install 'clipseg-cli[ray]'")
    for model in registry.installed():
        missing = f"not on this machine; download it with: clipseg models pull {model.name}"
        value = f"{model.path} ({model.size / 1e6:.0f} MB)" if model.path else missing
        yield Finding(f"model {model.name}", value)
    yield from _self_test(device, dtype)


def _self_test(device: str, dtype: Dtype) -> Iterator[Finding]:
    import cv2
    import numpy as np

    from clipseg_cli.masks import soft_maps
    from clipseg_cli.model.segmenter import Segmenter

    def iou(a: Any, b: Any) -> float:
        return int(np.count_nonzero(a & b)) / max(int(np.count_nonzero(a | b)), 1)

    image = np.full((240, 320, 3), (200, 205, 210), np.uint8)
    truth = cv2.circle(np.zeros((240, 320), np.uint8), (130, 120), 60, 255, -1)
    image[truth > 0] = (214, 40, 40)
    try:
        reference = Segmenter.load("shapes", device="cpu", dtype="fp32")
        tested = Segmenter.load("shapes", device=device, dtype=dtype)
        yield Finding("device", f"{tested.device} in {tested.dtype}", True)
        logits = [each.logits(each.encode([image]), each.embed(["a red circle"])) for each in (reference, tested)]
        masks = [soft_maps.cut(soft_maps.upsample(each[0, 0], 240, 320), 0.5) for each in logits]
    except ClipsegError as error:
        yield Finding("self-test", str(error), False)
        return
    for what, score in (
        ("finds a drawn red circle", iou(masks[0], truth)),
        (f"{tested.dtype} on {tested.device} agrees with fp32 on cpu", iou(masks[0], masks[1])),
    ):
        yield Finding("self-test", f"{what}: IoU {score:.3f}", score >= SELF_TEST_IOU)
