"""The device and the dtype that a model runs with."""

from pathlib import Path

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
