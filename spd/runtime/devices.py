"""Whether there is an NVIDIA GPU, asked of the driver itself so that no package is needed."""

from __future__ import annotations

import ctypes
import functools
import sys


@functools.lru_cache(maxsize=1)
def cuda_missing() -> str | None:
    """Why CUDA cannot run here, or None if there is a GPU that the driver can use."""
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
    return None
