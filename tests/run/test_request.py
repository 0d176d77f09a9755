"""Requests: options that do not fit each other, and the devices and workers of a run."""

import importlib.util
from dataclasses import replace

import pytest

from clipseg_cli.errors import UsageError
from clipseg_cli.prompts.text import Prompt
from clipseg_cli.run.engines import gpus
from clipseg_cli.run.query.terms import build
from clipseg_cli.run.request import OUT, Request
from clipseg_cli.run.work import workers_of
from clipseg_cli.settings.masks import MaskOptions
from clipseg_cli.settings.model import ModelOptions
from clipseg_cli.settings.outputs import OutputOptions
from clipseg_cli.settings.run import RunOptions, WorkerOptions

PLAIN = Request(build([Prompt("cat", "a cat")]), ModelOptions())


@pytest.mark.parametrize(
    ("jobs", "plan"),
    [(1, ["cuda:0", "cuda:1"]), (3, ["cuda:0", "cuda:1", "cuda:0"]), (None, ["cuda:0", "cuda:1"])],
)
def test_each_device_has_a_worker(jobs: int | None, plan: list[str]) -> None:
    """There is one worker per device, or as many as -j says, the devices in turn. Each gets the request with its
    device alone."""
    run = RunOptions(workers=WorkerOptions(jobs=jobs))
    request = replace(PLAIN, model=ModelOptions(device="cuda:0,1"), run=run)
    each = request.per_worker(workers_of(request, None).processes)
    assert [one.model.device for one in each] == plan
    assert each[0] == replace(request, model=ModelOptions(device="cuda:0"))


def test_cuda_is_every_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A number names one of them. Ray assigns them itself, and without a driver the name stays."""
    cuda = replace(PLAIN, model=ModelOptions(device="cuda"))
    assert [one.model.device for one in cuda.per_device()] == (
        [f"cuda:{number}" for number in range(len(gpus.memories()))] or ["cuda"]
    )
    monkeypatch.setattr(gpus, "memories", lambda: (80_000_000_000, 80_000_000_000))
    assert [one.model.device for one in cuda.per_device()] == ["cuda:0", "cuda:1"]
    assert len(replace(cuda, model=ModelOptions(device="cuda:1")).per_device()) == 1
    ray = replace(cuda, run=RunOptions(workers=WorkerOptions(engine="ray")))
    assert [one.model.device for one in ray.per_device()] == ["cuda"]


def test_the_output_is_a_folder_by_default() -> None:
    """`to` names another. A file URL is a path."""
    assert PLAIN.out == OUT and PLAIN.to("-").out == "-"
    assert replace(PLAIN, output=OutputOptions("file:///out")).out == "/out"


@pytest.mark.parametrize("threshold", ["2", "dog=0.5", "cat=x", "p101"])
def test_a_wrong_threshold_is_refused_before_a_model_is_loaded(threshold: str) -> None:
    """Also one of a label that no prompt has."""
    with pytest.raises(UsageError, match="--threshold"):
        replace(PLAIN, masks=MaskOptions((threshold,)))


def test_options_of_ray_need_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """--ray-address without --engine ray, a GPU's number with it, and a machine without the package."""
    with pytest.raises(UsageError, match="--ray-address needs --engine ray"):
        replace(PLAIN, run=RunOptions(workers=WorkerOptions(ray_address="here:1")))
    ray = RunOptions(workers=WorkerOptions(engine="ray"))
    for device in ("cuda:1", "cuda:0,1"):
        with pytest.raises(UsageError, match="Ray assigns GPUs"):
            replace(PLAIN, run=ray, model=ModelOptions(device=device))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'clipseg-cli\[ray\]'"):
        replace(PLAIN, run=ray)
