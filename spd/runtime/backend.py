"""What a backend does: compute the two halves of the network on one device."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spd.bundle.contract import DTYPES, Contract, TensorSpec

_ITEM_BYTES = {"uint8": 1, "float16": 2, "bfloat16": 2, "float32": 4, "int64": 8}


class Backend(ABC):
    """Encoder and decoder of one model on one device.

    The cache is whatever the backend wants it to be; it stays on the device until the last reference to it goes.
    """

    name: str
    """As in `spd.load(backend=...)`."""
    precision: str
    """One of `spd.bundle.contract.PRECISIONS`."""
    height: int
    """Height of the images it takes, pixels."""
    width: int
    """Width of the images it takes, pixels."""
    max_points: int
    """Most points in one call of `decode`."""
    cache_bytes: int | None = None
    """Bytes of one cache on the device; None if not known."""
    takes_gpu_arrays = False
    """Whether `encode` also takes a `GpuArray`, uint8 [height, width, 3]."""
    routed_tokens = 0
    """Cells that `routes` gives for each point; 0 if it is not to be called."""

    @abstractmethod
    def encode(self, image: Any) -> Any:
        """Encode an RGB image, uint8 [1, height, width, 3], to its cache. It is not read any more afterwards."""

    @abstractmethod
    def decode(self, cache: Any, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """Depth in metres, float32 [1, K], of points (u, v), float32 [1, K, 2], in pixels of the backend's image."""

    def routes(self, cache: Any, points: NDArray[np.float32]) -> NDArray[np.int64]:
        """Cells that points, as `decode` takes them, attend to: int64 [1, K, routed_tokens]."""
        raise NotImplementedError

    def wait(self, cache: Any) -> None:
        """Wait until a cache is computed, where `encode` returns before; for measuring time."""
        return

    def release(self, cache: Any) -> None:
        """Give back the memory of a cache that will not be used again; by default its last reference does."""
        return

    def cuda_graphs(self) -> tuple[int, int]:
        """How many were captured so far, and how many could not be."""
        return 0, 0

    def close(self) -> None:
        """Give back what the backend holds; caches that are still referenced keep theirs and stay usable."""
        return


def nbytes_of(spec: TensorSpec, precision: str, points: int = 0) -> int:
    """Bytes of a tensor for one image in a graph of a precision; `points` is K."""
    dtype = DTYPES[precision] if spec.dtype == "graph" else spec.dtype
    return math.prod(spec.resolved(1, points)) * _ITEM_BYTES[dtype]


def cache_nbytes(tensors: Contract, precision: str) -> int:
    """Bytes of the cache of one image."""
    return sum(nbytes_of(spec, precision) for spec in tensors.encoder_outputs)
