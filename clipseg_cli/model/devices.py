"""Chooses the device and the dtype that a model runs with."""

from typing import Any

import torch
from torch import Tensor

from clipseg_cli.errors import UsageError
from clipseg_cli.model import int8

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.int8}


def available_devices() -> tuple[str, ...]:
    """Returns the devices of this machine, the fastest first."""
    cuda = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return (*cuda, *(["mps"] if torch.backends.mps.is_available() else []), "cpu")


def pick_device(device: str) -> str:
    """Returns `device`, or the fastest one for "auto". Raises UsageError, which lists the devices, if it is absent."""
    available = available_devices()
    if device == "auto":
        return available[0]
    name = "cuda:0" if device == "cuda" else device
    if name not in available:
        raise UsageError(f"there is no device {device!r} here; this machine has {', '.join(available)}")
    return name


def pick_dtype(dtype: str, device: str) -> str:
    """Returns `dtype` or, for "auto", half precision if the hardware multiplies in it, else fp32.

    "auto" is never int8, which is less accurate. Raises UsageError for a dtype that is unknown, or not supported there.
    """
    if dtype != "auto":
        if dtype not in DTYPES:
            raise UsageError(f"there is no dtype {dtype!r}; choose from auto, {', '.join(DTYPES)}")
        if dtype == "int8" and device != "cpu":
            raise UsageError(f"int8 runs on a CPU only, not on {device}: add --device cpu, or use --dtype auto")
        if dtype == "int8" and not int8.levels():
            raise UsageError("this torch has no int8 products for this processor: use --dtype auto")
        return dtype
    if device.startswith("cuda"):
        with torch.cuda.device(device):
            return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if device == "cpu" and multiplies_bf16() else "fp32"


def to_device(tensor: Tensor, device: str) -> Tensor:
    """Returns a tensor on a device. To a GPU it is sent from pinned memory, while this thread goes on."""
    pinned = tensor.pin_memory() if device.startswith("cuda") and tensor.device.type == "cpu" else tensor
    return pinned.to(device, non_blocking=True)


def to_host(tensor: Tensor) -> Tensor:
    """Returns a tensor in this machine's memory. Waits for the work that makes it, not for what was asked for later."""
    if tensor.device.type != "cuda":
        return tensor.cpu()
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)
    untyped: Any = torch.cuda
    copied = untyped.Event(blocking=True)
    copied.record(torch.cuda.current_stream(tensor.device))
    copied.synchronize()
    return host


def multiplies_bf16() -> bool:
    """Returns whether this CPU has bfloat16 instructions for matrix products that torch uses."""
    get_capabilities = getattr(torch.cpu, "get_capabilities", None)  # missing in the oldest torch that we support
    flags = get_capabilities() if get_capabilities is not None else {}
    return any(flags.get(flag) for flag in ("amx_bf16", "avx512_bf16"))
