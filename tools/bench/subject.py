"""What is timed: one network on one runtime, for one image, in the process that owns it."""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

ENCODE = 0
"""The work of an encoder, or of a whole dense network; any other work is the K of a decoder's call."""

TURN_SECONDS = 0.1
"""A turn starts calls for so long, some tens of those of a millisecond; two calls at least, of which the first, that
finds the caches full of other rows' data and their threads still awake, does not count."""

WARM_UP = 2
"""Calls before any that counts: the first allocates, the second reuses what it allocated."""


@dataclass(frozen=True)
class Inputs:
    """What every row of a size is given."""

    image: NDArray[np.uint8]
    """[B, H, W, 3], RGB."""
    points: NDArray[np.float32]
    """[B, K, 2], (u, v) in pixels of the image, for the largest K."""
    threads: int
    """Threads of one call on a CPU."""

    def first(self, count: int) -> NDArray[np.float32]:
        """The first `count` points of every image, float32 [B, count, 2]."""
        return np.ascontiguousarray(self.points[:, :count])


class Subject(ABC):
    """One network on one runtime."""

    scene_mb: float | None = None
    """Megabytes that are kept of a scene between its encoding and its queries; None if that is not known."""

    @abstractmethod
    def encode(self) -> None:
        """Encode the image, or run a dense network on it, to the end."""

    def decode(self, count: int) -> NDArray[np.float32]:
        """Depth in metres, float32 [B, count] on the host, at the first points of the image that was encoded last."""
        raise NotImplementedError

    def prepare(self, work: int) -> float:
        """Do some work without timing it; how many megabytes the process has taken up to now at most."""
        for _ in range(WARM_UP):
            self._run(work)
        return peak_mb()

    def turn(self, work: int) -> float:
        """Milliseconds that some work takes now."""
        seconds: list[float] = []
        start = time.perf_counter()
        while len(seconds) < 2 or time.perf_counter() - start < TURN_SECONDS:
            begin = time.perf_counter()
            self._run(work)
            seconds.append(time.perf_counter() - begin)
        return median(seconds[1:]) * 1e3

    def kept_mb(self) -> float | None:
        """`scene_mb`, for who asks from another process."""
        return self.scene_mb

    def _run(self, work: int) -> None:
        if work == ENCODE:
            self.encode()
        else:
            self.decode(work)


def peak_mb() -> float:
    """Most resident memory that this process has had, megabytes; libraries that it shares with others count."""
    status = Path("/proc/self/status")
    if status.is_file():
        # The peak of getrusage begins with that of the process that started this one.
        line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024 / 1e6
    if sys.platform == "win32":
        return float("nan")
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6
