"""What to measure, and the times of the operators of one graph, whatever measured them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

WARM_UP = 2
"""Runs before those that count: the first allocates, the second reuses what it allocated."""


@dataclass(frozen=True)
class Settings:
    """What to measure."""

    backend: str
    """onnxruntime-cpu, onnxruntime-cuda or tensorrt."""
    precision: str
    """fp32, fp16 or bf16."""
    points: int
    """K."""
    runs: int
    """Runs that count."""
    threads: int | None = None
    """CPU threads for one call; None for all cores."""


@dataclass(frozen=True)
class OperatorTimes:
    """One operator as a runtime executed it: a node, or several fused into one."""

    name: str
    """The runtime's name for it."""
    kind: str
    """Its ONNX operator or TensorRT's layer type."""
    block: str
    """One of `blocks.BLOCKS`."""
    seconds: tuple[float, ...]
    """Its time in each run."""
    bytes: int | None = None
    """What it read and wrote in one run, if the runtime tells."""

    @property
    def median(self) -> float:
        """Median over the runs, seconds."""
        return median(self.seconds)


@dataclass(frozen=True)
class GraphTimes:
    """One graph, measured."""

    graph: str
    """encoder or decoder."""
    operators: tuple[OperatorTimes, ...]
    """In the order of execution."""
    calls: tuple[float, ...]
    """Seconds of whole calls through the runtime that applications use, without a profiler."""
    points: int
    """K of the decoder's calls, padded as the runtime pads it; 0 for an encoder."""


def timed(call: Callable[[], Any], runs: int) -> tuple[float, ...]:
    """Seconds of each of `runs` calls, after `WARM_UP` more."""
    seconds = []
    for _ in range(WARM_UP + runs):
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    return tuple(seconds[WARM_UP:])
