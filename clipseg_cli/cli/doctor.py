"""`clipseg doctor`: checks versions, device and weights, and runs numeric tests."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipseg_cli import __version__
from clipseg_cli.cli.terminal import say
from clipseg_cli.errors import ClipsegError, ImageError, UsageError
from clipseg_cli.settings.flag import Flag
from clipseg_cli.settings.model import Dtype

if TYPE_CHECKING:
    from clipseg_cli.model.published import Comparison, PublishedValues

FASTER = 1.1  # times: a smaller gain is not worth the accuracy of int8
# Lowest IoU that passes: of the bundled model's mask with a drawn disc, and of the masks of this device and of the CPU.
SELF_TEST_IOU = 0.95


def doctor(
    device: Annotated[str, Flag("The device to test: auto, cpu, cuda, cuda:1 or mps.", panel="Model")] = "auto",
    dtype: Annotated[Dtype, Flag("The precision to test.", panel="Model")] = "auto",
    image: Annotated[
        str | None,
        Flag(
            "Hugging Face's test photo (COCO val2017 000000039769), instead of its download. "
            "Used if the weights of rd64-refined are on this machine.",
            metavar="FILE",
            panel="Model",
        ),
    ] = None,
    offline: Annotated[bool, Flag("Do not download the test photo.", panel="Model")] = False,
) -> None:
    """Checks the installation.

    Shows versions, device, precision and weights, and runs a numeric self-test. Compares the default model, if it is
    on this machine, with the values that Hugging Face publishes for it. Exits 1 if a check fails.

    \b
    Example:
      clipseg models pull rd64-refined && clipseg doctor
    """
    from clipseg_cli.model import published

    failed = False
    for finding in chain(examine(device, dtype), prove(published.RELEASED, image, offline)):
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
    import platform
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
    yield from _kinds()
    for model in registry.installed():
        missing = f"not on this machine; download it with: clipseg models pull {model.name}"
        value = f"{model.path} ({model.size / 1e6:.0f} MB)" if model.path else missing
        yield Finding(f"model {model.name}", value)
    yield Finding("encoded images", _kept())
    yield from _self_test(device, dtype)
    yield _int8_speed()


def _kept() -> str:
    """Returns where runs keep encoded images, and how many there are."""
    from clipseg_cli.model import feature_store

    place = feature_store.user_place()
    if place is None:
        return "not kept, because there is no folder for a cache: set HOME, or CLIPSEG_CACHE to a folder"
    usage = place.usage()
    return f"{usage.counts[feature_store.KIND]:,} in {place.folder} ({usage.size / 1e6:.0f} MB; see clipseg cache)"


def _kinds() -> Iterator[Finding]:
    """Yields which kinds of file can be read, and the extras that read others."""
    from clipseg_cli.inputs.kinds import DECODABLE, KINDS, pip_line

    yield Finding("reads", ", ".join(name for name in DECODABLE if KINDS[name].installed), True)
    missing: dict[str, list[str]] = {}
    for name in DECODABLE:
        if not KINDS[name].installed:
            missing.setdefault(KINDS[name].extra, []).append(name)
    for extra, names in missing.items():
        yield Finding(", ".join(names), f"not installed; to read it: {pip_line(extra)}")


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


def _int8_speed() -> Finding:
    """Returns whether --dtype int8 would be faster than the default precision on this CPU, measured in a second."""
    from clipseg_cli.model import int8
    from clipseg_cli.model.devices import pick_dtype
    from clipseg_cli.model.speed import layer_seconds

    if not int8.levels():
        return Finding("int8", "this torch has no int8 products for this processor")
    usual = pick_dtype("auto", "cpu")
    seconds = layer_seconds([usual, "int8"])
    ratio = seconds[usual] / seconds["int8"]
    if ratio < FASTER:
        return Finding("int8", f"would not be faster than {usual} on this CPU ({ratio:.1f} times as fast)")
    return Finding("int8", f"--dtype int8 would be {ratio:.1f} times as fast as {usual} on this CPU, but less accurate")


def prove(values: "PublishedValues", image: str | None = None, offline: bool = False) -> Iterator[Finding]:
    """Yields how the weights on this machine compare with the published values, on the CPU in fp32.

    `image` is the file of the test photo; without one it is downloaded, unless `offline`.
    """
    from clipseg_cli.model import published, registry
    from clipseg_cli.model.segmenter import Segmenter

    what = f"published values of {values.model}"
    if all(model.path is None for model in registry.installed() if model.name == values.model):
        how = f"clipseg models pull {values.model} && clipseg doctor"
        yield Finding(what, f"not checked, because the weights are not on this machine; to check them: {how}")
        return
    try:
        checkpoint = registry.locate(values.model, download=False)
        segmenter = Segmenter.load(checkpoint, device="cpu", dtype="fp32")
        yield _compared(what, published.compare_embedding(segmenter, values))
    except ClipsegError as error:
        yield Finding(what, str(error), False)
        return
    try:
        data, pixels = _photo(values, image, offline)
    except ClipsegError as error:
        how = f"clipseg doctor --image FILE, with {values.photo.url}"
        failed = False if image else None  # a file that was given must be of use
        yield Finding(what, f"logits and image embedding not checked: {error}; to check them: {how}", failed)
        return
    for comparison in published.compare_photo(segmenter, values, pixels):
        other = not comparison.equal and not published.is_published(values.photo, data)
        hint = f"; {image} is not the original file, which may be the reason: {values.photo.url}" if other else ""
        yield _compared(what, comparison, hint)


def _compared(what: str, comparison: "Comparison", hint: str = "") -> Finding:
    verdict = "equal" if comparison.equal else "not equal"
    value = f"{comparison.what}: {verdict} (largest difference {comparison.difference:.2g}){hint}"
    return Finding(what, value, comparison.equal)


def _photo(values: "PublishedValues", image: str | None, offline: bool) -> tuple[bytes, Any]:
    """Returns the file of the test photo and its pixels, uint8 (H, W, 3). Raises ClipsegError if there is none."""
    from clipseg_cli.inputs import decode
    from clipseg_cli.inputs.source import Source
    from clipseg_cli.model import hub, published

    photo = values.photo
    if image is not None:
        try:
            data = Path(image).read_bytes()
        except (OSError, ValueError) as error:
            raise UsageError(f"cannot read {image} ({error})") from error
    elif offline or hub.constants().HF_HUB_OFFLINE:
        raise UsageError("the test photo is not downloaded with --offline or HF_HUB_OFFLINE")
    else:
        data = published.fetch(photo)
    name = image or photo.url
    try:
        pixels = decode.load(Source(name, name, "", data)).pixels
    except ImageError as error:
        raise UsageError(f"{name}: {error}") from error
    if pixels.shape[:2] != (photo.height, photo.width):
        size = f"{pixels.shape[1]} x {pixels.shape[0]}"
        raise UsageError(f"{name} has {size} pixels, the test photo {photo.width} x {photo.height}")
    return data, pixels
