"""What `Scene.depth` and `Model.encode` cost on the host, over a backend that answers instantly.

    python -m tools.overhead

Prints the least and the median time of many calls in one thread, in microseconds. Set OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spd.runtime import Model
from spd.runtime.backend import Backend

HEIGHT, WIDTH = 480, 640
COUNTS = (1, 16, 256, 4096)


class Instant(Backend):
    """Gives depths that are ready, and looks at nothing."""

    name, precision, height, width, max_points = "instant", "fp32", HEIGHT, WIDTH, max(COUNTS)

    def __init__(self) -> None:
        self._depth = np.ones((1, self.max_points), np.float32)

    def encode(self, image: NDArray[np.uint8]) -> Any:
        """Nothing is computed."""
        return self

    def decode(self, cache: Any, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """Nothing is computed."""
        return self._depth[:, : points.shape[1]]


def microseconds(call: Callable[[], object], times: int) -> tuple[float, float]:
    """The least and the median time of a call."""
    call()
    taken = []
    for _ in range(times):
        start = time.perf_counter_ns()
        call()
        taken.append(time.perf_counter_ns() - start)
    return min(taken) / 1000, statistics.median(taken) / 1000


def main(times: int = 20_000) -> None:
    """Measure and print.

    Args:
        times: calls of `depth` with one point; less of what takes longer.
    """
    model, rng = Model(Instant(), None, []), np.random.default_rng(0)
    for height, width in ((HEIGHT, WIDTH), (900, 1600)):
        image = np.zeros((height, width, 3), np.uint8)
        scene = model.encode(image)
        least, median = microseconds(partial(model.encode, image), max(times // 200, 1))
        print(f"{width} x {height}: encode {least:.1f} {median:.1f}")
        for count in COUNTS:
            points = rng.random((count, 2)) * (width - 1, height - 1)
            for check in (True, False):
                least, median = microseconds(
                    partial(scene.depth, points, check=check), max(times // (1 + count // 256), 1)
                )
                print(f"{width} x {height}: depth K={count}{'' if check else ' check=False'} {least:.1f} {median:.1f}")


if __name__ == "__main__":
    main()
