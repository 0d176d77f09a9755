"""The GPUs of CUDA, as their driver knows them. torch knows them too, but takes a second to import."""

import ctypes
import sys
from functools import cache

DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"


@cache
def memories(driver: str = DRIVER) -> tuple[int, ...]:
    """Returns the bytes of memory of each GPU that this process may use, in the order of their numbers.

    CUDA_VISIBLE_DEVICES counts. Without a driver, or without such a GPU, there are none. The functions are those of
    NVIDIA's "CUDA Driver API", where 0 means success.
    """
    try:
        cuda = ctypes.CDLL(driver)
    except OSError:
        return ()
    count, found = ctypes.c_int(), []
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)):
        return ()
    for number in range(count.value):
        device, size = ctypes.c_int(), ctypes.c_size_t()
        if cuda.cuDeviceGet(ctypes.byref(device), number) or cuda.cuDeviceTotalMem_v2(ctypes.byref(size), device):
            return ()
        found.append(size.value)
    return tuple(found)
