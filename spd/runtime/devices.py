"""Whether there is an NVIDIA GPU, asked of the driver itself so that no package is needed."""

from __future__ import annotations

import ctypes
import functools
import sys

from spd.errors import BackendError


def cuda_missing() -> str | None:
    """Why CUDA cannot run here, or None if there is a GPU that the driver can use."""
    count = gpus()
    return count if isinstance(count, str) else None


def check_gpu(number: int) -> None:
    """Refuse a number that no GPU has.

    Raises:
        BackendError: there is no such GPU.
    """
    count = gpus()
    if isinstance(count, str):
        raise BackendError(f"device is {number}, but {count}")
    if isinstance(number, bool) or number not in range(count):
        raise BackendError(f"device is {number!r}, expected the number of a GPU from 0 to {count - 1}")


@functools.lru_cache(maxsize=1)
def gpus() -> int | str:
    """How many GPUs the driver can use, at least 1; or why none."""
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(library)
    except OSError:
        return f"no NVIDIA driver ({library} cannot be loaded)"
    count = ctypes.c_int(0)
    status = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if status != 0:
        return f"the NVIDIA driver reports error {status}"
    if count.value == 0:
        return "the NVIDIA driver finds no GPU"
    return count.value
