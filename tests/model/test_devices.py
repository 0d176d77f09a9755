"""The device and the dtype that a model runs with."""

from pathlib import Path

import pytest
import torch

from clipseg_cli.errors import UsageError
from clipseg_cli.model import int8
from clipseg_cli.model.devices import available_devices, pick_device, pick_dtype


def test_auto_is_bfloat16_if_the_processor_has_it() -> None:
    """The kernel lists the instructions of the processor. A dtype that is named is used."""
    flags = Path("/proc/cpuinfo").read_text().split()
    assert pick_dtype("auto", "cpu") == ("bf16" if {"avx512_bf16", "amx_bf16"} & set(flags) else "fp32")
    assert pick_dtype("fp16", "cpu") == "fp16"


def test_auto_is_the_fastest_device() -> None:
    """The CPU is the last of the list. A device that is named is used."""
    assert pick_device("auto") == available_devices()[0]
    assert available_devices()[-1] == "cpu" == pick_device("cpu")


def test_int8_needs_a_cpu_and_a_torch_that_multiply_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the message names the precision that works."""
    assert pick_dtype("int8", "cpu") == "int8"
    with pytest.raises(UsageError, match="int8 runs on a CPU only, not on cuda:0: add --device cpu"):
        pick_dtype("int8", "cuda:0")
    int8.levels.cache_clear()
    with monkeypatch.context() as patch:
        patch.delattr(torch, "_int_mm")
        with pytest.raises(UsageError, match="no int8 products for this processor: use --dtype auto"):
            pick_dtype("int8", "cpu")
        int8.levels.cache_clear()
