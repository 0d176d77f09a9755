"""Checkpoints, the segmenters that load them, and a hub that serves them."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from checkpoints import write_checkpoint
from clipseg_cli.model.registry import BUNDLED, Checkpoint
from hub import Files, Hub, read_files
from machine import Forks, Machine
from oracle import as_checkpoint

REPO = "CIDAS/clipseg-rd64-refined"


@pytest.fixture(scope="session")
def find(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Checkpoint]:
    """Returns checkpoints by name: "shapes" is the bundled one, the others are random and written once."""

    @cache
    def find(name: str) -> Checkpoint:
        path = BUNDLED if name == "shapes" else write_checkpoint(tmp_path_factory.mktemp(name), size=name)  # type: ignore[arg-type]
        return as_checkpoint(path)

    return find


@pytest.fixture(scope="session")
def load(find: Callable[[str], Checkpoint]) -> Callable[..., Any]:
    """Loads a segmenter on the CPU; the same arguments give the same one, which keeps no state."""
    from clipseg_cli.model.segmenter import Segmenter

    @cache
    def load(name: str, dtype: str = "fp32", backend: str = "fast", size: int | None = None) -> Segmenter:
        return Segmenter.load(find(name), device="cpu", dtype=dtype, backend=backend, size=size)  # type: ignore[arg-type]

    return load


@pytest.fixture(scope="session")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint directory like the released repositories."""
    return write_checkpoint(tmp_path_factory.mktemp("released"))


@pytest.fixture(scope="module", params=["released", "saved", "bundled"])
def layout(request: pytest.FixtureRequest, released: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint directories as released, as transformers 5 saves them, and the bundled one."""
    if request.param == "saved":
        return write_checkpoint(tmp_path_factory.mktemp("saved"), layout="saved")
    return released if request.param == "released" else BUNDLED


@pytest.fixture(scope="session")
def pickled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights as pytorch_model.bin only."""
    return write_checkpoint(tmp_path_factory.mktemp("pickled"), weights="bin")


@pytest.fixture(scope="session")
def files(released: Path) -> Files:
    """The files of the checkpoint directory and a card, ready to be served."""
    return read_files(released) | {"README.md": b"# card"}


@pytest.fixture
def hub(files: Files) -> Iterator[Hub]:
    """A hub that serves the checkpoint as rd64-refined, with files that a run does not need."""
    extra = {"tf_model.h5": b"x" * 20_000, "pytorch_model.bin": b"y" * 20_000}
    with Hub({REPO: {"main": {**files, **extra}}}) as running:
        yield running


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """A process that forks."""
    with Forks() as running:
        yield running


@pytest.fixture
def machine(tmp_path: Path, hub: Hub, forks: Forks) -> Machine:
    """A machine with an empty cache that can reach the hub."""
    return Machine(tmp_path, hub.url, forks)


@pytest.fixture
def lonely(tmp_path: Path, forks: Forks) -> Machine:
    """A machine with an empty cache and no network."""
    return Machine(tmp_path, forks=forks)
