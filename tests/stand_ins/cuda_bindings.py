"""Stand-in for the used functions of `cuda.bindings`: versions, free memory, copies of part of a buffer.

As in cuda.bindings every function returns a tuple whose first item is the status.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any

from stand_ins.cuda_core import CUDAError, driver, streams
from stand_ins.cuda_memory import copy
from stand_ins.machine import current
from stand_ins.timeline import Timeline

# Made by calling IntEnum because the names of cuda.bindings are not Python's.
cudaError_t = IntEnum(  # noqa: N816
    "cudaError_t",
    {
        "cudaSuccess": 0,
        "cudaErrorInvalidValue": 1,
        "cudaErrorMemoryAllocation": 2,
        "cudaErrorInvalidDevice": 101,
        "cudaErrorIllegalAddress": 700,
        "cudaErrorStreamCaptureUnsupported": 900,
    },
)

cudaMemcpyKind = IntEnum(  # noqa: N816
    "cudaMemcpyKind",
    {
        "cudaMemcpyHostToHost": 0,
        "cudaMemcpyHostToDevice": 1,
        "cudaMemcpyDeviceToHost": 2,
        "cudaMemcpyDeviceToDevice": 3,
        "cudaMemcpyDefault": 4,
    },
)

CUresult = IntEnum(
    "CUresult",
    {
        "CUDA_SUCCESS": 0,
        "CUDA_ERROR_INVALID_VALUE": 1,
        "CUDA_ERROR_OUT_OF_MEMORY": 2,
        "CUDA_ERROR_INVALID_CONTEXT": 201,
        "CUDA_ERROR_ILLEGAL_ADDRESS": 700,
        "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED": 900,
    },
)


def _timeline(stream: Any) -> Timeline:
    found = streams(current()).get(int(stream))
    if found is None:
        raise CUDAError(f"CUDA_ERROR_INVALID_HANDLE: {int(stream):#x} is no open stream")
    return found._timeline


def _copied(success: IntEnum, failure: IntEnum, target: Any, source: Any, count: int, stream: Any) -> tuple[IntEnum]:
    try:
        with driver():
            copy(int(target), int(source), int(count), _timeline(stream))
    except CUDAError:
        return (failure,)
    return (success,)


def cudaRuntimeGetVersion() -> tuple[cudaError_t, int]:
    """Version of the CUDA runtime, 13000 for 13.0."""
    return cudaError_t.cudaSuccess, current().cuda


def cudaDriverGetVersion() -> tuple[cudaError_t, int]:
    """Newest CUDA version that the driver supports."""
    return cudaError_t.cudaSuccess, current().driver


def cudaGetDeviceCount() -> tuple[cudaError_t, int]:
    """One."""
    return cudaError_t.cudaSuccess, 1


def cudaMemGetInfo() -> tuple[cudaError_t, int, int]:
    """Free and total bytes on the device."""
    memory = current().memory
    return cudaError_t.cudaSuccess, memory.free_bytes, memory.capacity


def cudaGetErrorName(error: cudaError_t) -> tuple[cudaError_t, bytes]:
    """The name of a status."""
    return cudaError_t.cudaSuccess, error.name.encode()


def cudaGetErrorString(error: cudaError_t) -> tuple[cudaError_t, bytes]:
    """A status in words."""
    return cudaError_t.cudaSuccess, error.name.encode()


def cudaMemcpyAsync(dst: Any, src: Any, count: int, kind: cudaMemcpyKind, stream: Any) -> tuple[IntEnum]:
    """Copy some bytes between any two addresses."""
    return _copied(cudaError_t.cudaSuccess, cudaError_t.cudaErrorInvalidValue, dst, src, count, stream)


def cuInit(Flags: int) -> tuple[CUresult]:
    """Nothing to do."""
    return (CUresult.CUDA_SUCCESS,)


def cuDeviceGetCount() -> tuple[CUresult, int]:
    """One."""
    return CUresult.CUDA_SUCCESS, 1


def cuDriverGetVersion() -> tuple[CUresult, int]:
    """Newest CUDA version that the driver supports."""
    return CUresult.CUDA_SUCCESS, current().driver


def cuMemGetInfo() -> tuple[CUresult, int, int]:
    """Free and total bytes on the device."""
    memory = current().memory
    return CUresult.CUDA_SUCCESS, memory.free_bytes, memory.capacity


def cuGetErrorName(error: CUresult) -> tuple[CUresult, bytes]:
    """The name of a status."""
    return CUresult.CUDA_SUCCESS, error.name.encode()


def cuGetErrorString(error: CUresult) -> tuple[CUresult, bytes]:
    """A status in words."""
    return CUresult.CUDA_SUCCESS, error.name.encode()


def cuMemcpyAsync(dst: Any, src: Any, ByteCount: int, hStream: Any) -> tuple[IntEnum]:
    """Copy some bytes between any two addresses."""
    return _copied(CUresult.CUDA_SUCCESS, CUresult.CUDA_ERROR_INVALID_VALUE, dst, src, ByteCount, hStream)


def cuMemcpyHtoDAsync(dstDevice: Any, srcHost: Any, ByteCount: int, hStream: Any) -> tuple[IntEnum]:
    """Copy some bytes to the device."""
    return cuMemcpyAsync(dstDevice, srcHost, ByteCount, hStream)


def cuMemcpyDtoHAsync(dstHost: Any, srcDevice: Any, ByteCount: int, hStream: Any) -> tuple[IntEnum]:
    """Copy some bytes to the host."""
    return cuMemcpyAsync(dstHost, srcDevice, ByteCount, hStream)


def cuMemcpyDtoDAsync(dstDevice: Any, srcDevice: Any, ByteCount: int, hStream: Any) -> tuple[IntEnum]:
    """Copy some bytes on the device."""
    return cuMemcpyAsync(dstDevice, srcDevice, ByteCount, hStream)


RUNTIME: tuple[type | Callable[..., Any], ...] = (
    cudaError_t,
    cudaMemcpyKind,
    cudaRuntimeGetVersion,
    cudaDriverGetVersion,
    cudaGetDeviceCount,
    cudaMemGetInfo,
    cudaGetErrorName,
    cudaGetErrorString,
    cudaMemcpyAsync,
)
"""What `cuda.bindings.runtime` offers."""

DRIVER: tuple[type | Callable[..., Any], ...] = (
    CUresult,
    cuInit,
    cuDeviceGetCount,
    cuDriverGetVersion,
    cuMemGetInfo,
    cuGetErrorName,
    cuGetErrorString,
    cuMemcpyAsync,
    cuMemcpyHtoDAsync,
    cuMemcpyDtoHAsync,
    cuMemcpyDtoDAsync,
)
"""What `cuda.bindings.driver` offers."""
