"""True float32 in torch, for whatever is a reference."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import torch

_backends: Any = torch.backends  # which makes some of these names at run time
_OPERATIONS = (
    _backends.cuda.matmul,
    _backends.cudnn.conv,
    _backends.cudnn.rnn,
    _backends.mkldnn.matmul,
    _backends.mkldnn.conv,
)


class _Flags:
    """torch's flags are those of the whole process: the first thread that comes sets them, the last restores them."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.inside = 0
        self.before: list[str] = []

    def enter(self) -> None:
        with self.lock:
            if not self.inside:
                self.before = [operation.fp32_precision for operation in _OPERATIONS]
                for operation in _OPERATIONS:
                    operation.fp32_precision = "ieee"
            self.inside += 1

    def leave(self) -> None:
        with self.lock:
            self.inside -= 1
            if not self.inside:
                for operation, precision in zip(_OPERATIONS, self.before, strict=True):
                    operation.fp32_precision = precision


_flags = _Flags()


@contextmanager
def true_float32() -> Iterator[None]:
    """Multiply float32 in float32 within the `with`; else cuDNN rounds the operands of convolutions to 10 bits (TF32).

    It counts for all threads. Do not ask torch for `allow_tf32` within: that is an older way to say the same, and
    fails where the two differ.
    """
    _flags.enter()
    try:
        yield
    finally:
        _flags.leave()
