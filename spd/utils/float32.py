"""Float32 that is float32: GPUs round the operands of products to 10 bits (TF32) unless they are told not to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def true_float32() -> Iterator[None]:
    """Compute matrix products and convolutions of float32 in float32, on any device; settings are restored after.

    PyTorch lets cuDNN's convolutions use TF32 by default: relative depth errors of up to 5e-3, where a reference
    is to be right to 1e-4.
    """
    every: Any = torch.backends  # some of which torch gives no types
    backends = (every.cuda.matmul, every.cudnn.conv, every.mkldnn.matmul, every.mkldnn.conv)
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision
