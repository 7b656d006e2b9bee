"""Arrays and tensors of other libraries: into the host's memory, where they are on a GPU, and answers of their kind.

Nothing but numpy is imported. Whoever has a torch tensor has imported torch, which is then found in `sys.modules`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from spd.errors import InputError, one_line

HOST = (1, 3)
"""DLPack's numbers for the host's memory and for its page-locked memory."""
LEGACY_STREAM = 1
"""CUDA's name for the default stream, whose handle is 0."""


class SupportsDLPack(Protocol):
    """A tensor of torch, CuPy, JAX and others, on a CPU or GPU."""

    def __dlpack__(self, *arguments: Any, **options: Any) -> Any:
        """A capsule."""

    def __dlpack_device__(self) -> tuple[Any, Any]:
        """Kind and number of the device."""


class SupportsCuda(Protocol):
    """An array in a GPU's memory, by the CUDA array interface."""

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Its address, shape and type."""


@dataclass(frozen=True)
class GpuArray:
    """A C-contiguous array in a GPU's memory."""

    owner: Any
    """Keeps it alive."""
    address: int
    shape: tuple[int, ...]
    typestr: str
    """As numpy's `dtype.str`, such as `|u1`."""
    stream: int
    """Handle of the CUDA stream in which it was made and in which it will be overwritten."""

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return prod(self.shape) * np.dtype(self.typestr).itemsize


def on_gpu(array: Any) -> bool:
    """Whether this is an array outside of the host's memory."""
    if isinstance(array, np.ndarray):
        return False
    if hasattr(array, "__dlpack_device__"):
        return int(array.__dlpack_device__()[0]) not in HOST
    return hasattr(array, "__cuda_array_interface__")


def gpu_array(array: Any, stream: Any = None) -> GpuArray | None:
    """What an array on a GPU says of itself by the CUDA array interface. None without it, or if not C-contiguous.

    Args:
        array: on a GPU.
        stream: as in `stream_handle`. By default that of the array: torch's current one, or what the interface names.
    """
    interface = getattr(array, "__cuda_array_interface__", None)
    if interface is None:
        return None
    shape, typestr, strides = tuple(interface["shape"]), interface["typestr"], interface.get("strides")
    steps = np.cumprod([np.dtype(typestr).itemsize, *shape[:0:-1]])[::-1].tolist()
    if strides is not None and list(strides) != steps:
        return None
    if stream is not None:
        handle = stream_handle(stream)
    elif is_torch(array):
        handle = int(sys.modules["torch"].cuda.current_stream(array.device).cuda_stream)
    else:
        handle = int(interface.get("stream") or LEGACY_STREAM)
    return GpuArray(array, int(interface["data"][0]), shape, typestr, handle or LEGACY_STREAM)


def to_host(array: Any, stream: Any = None) -> Any:
    """An array as numpy's, copied only from a GPU; what is no tensor comes back as it is.

    Args:
        array: anything.
        stream: as in `stream_handle`, for tensors on a GPU; by default their library's current one.

    Raises:
        Exception: whatever the array's library raises if it does not give it.
    """
    if isinstance(array, np.ndarray):
        return array
    if is_torch(array):
        with _torch_stream(array, stream):
            return np.from_dlpack(array.detach().cpu())
    if not on_gpu(array):
        return np.from_dlpack(array) if hasattr(array, "__dlpack__") else array
    if stream is not None:
        raise InputError(
            f"stream is for torch tensors, and for images that are not resized; make it the current one of "
            f"{type(array).__module__} instead"
        )
    if not hasattr(array, "__dlpack__"):
        raise TypeError(f"{type(array).__name__} is on a GPU and has no __dlpack__; copy it to the host")
    return np.from_dlpack(array, device="cpu")


def of_its_kind(example: Any, result: NDArray[Any], stream: Any = None) -> Any:
    """A result as an array of the library and on the device of `example`.

    That is for torch and for libraries that follow Python's array API standard; for others it stays numpy's.
    """
    if isinstance(example, np.ndarray | list | tuple):
        return result
    if is_torch(example):
        with _torch_stream(example, stream):
            return sys.modules["torch"].from_numpy(result).to(example.device)
    if hasattr(example, "__array_namespace__"):
        return example.__array_namespace__().asarray(result, device=example.device)
    return result


def check_out(out: Any, shape: tuple[int, ...]) -> None:
    """Refuse a buffer that is not float32 of a shape.

    Raises:
        InputError: it is not.
    """
    got = str(getattr(out, "dtype", type(out).__name__)).rpartition(".")[2], list(getattr(out, "shape", ()))
    if got != ("float32", list(shape)):
        raise InputError(f"out is {got[0]} {got[1]}, expected float32 {list(shape)}")


def fill(out: Any, result: NDArray[Any], stream: Any = None) -> None:
    """Write a result into a buffer of any library.

    Raises:
        InputError: it cannot be written to.
    """
    try:
        if is_torch(out):
            with _torch_stream(out, stream):
                out.copy_(sys.modules["torch"].from_numpy(result))
        else:
            out[...] = of_its_kind(out, result)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"out cannot be written to: {one_line(error)}") from error


def is_torch(array: Any) -> bool:
    """Whether this is a tensor of torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(array, getattr(torch, "Tensor", ()))


def stream_handle(stream: Any) -> int:
    """The handle of a CUDA stream: of an int, or of what has `__cuda_stream__`, as torch's, CuPy's and cuda.core's do.

    Raises:
        InputError: it is neither.
    """
    if hasattr(stream, "__cuda_stream__"):
        return int(stream.__cuda_stream__()[1])
    if isinstance(stream, int) and not isinstance(stream, bool):
        return stream
    raise InputError(f"stream is {type(stream).__name__}, expected a CUDA stream: its handle, or a __cuda_stream__")


@contextmanager
def _torch_stream(tensor: Any, stream: Any) -> Iterator[None]:
    """Make a stream torch's current one, for tensors on a GPU."""
    if stream is None or not tensor.is_cuda:
        yield
        return
    cuda = sys.modules["torch"].cuda
    with cuda.stream(cuda.ExternalStream(stream_handle(stream), device=tensor.device)):
        yield
