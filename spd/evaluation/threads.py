"""The literal form on a CPU: threads with points of their own are faster than threads that share a product."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch

from spd.evaluation.protocol import EncodedImage, Predictor

LEAST_POINTS = 128
"""Points that are worth a thread of their own: what the literal form is asked at a time."""


@contextmanager
def points_on_threads(predictor: Predictor) -> Iterator[Predictor]:
    """The same predictor, with the points of an image spread over as many threads as torch has.

    Meanwhile each call of torch in this process uses one thread. On two cores atto answers 1.75 times as many points.
    """
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, "spd-eval", torch.set_num_threads, (1,)) as pool:
            yield _Spread(predictor, pool, threads)
    finally:
        torch.set_num_threads(threads)


class _Spread:
    def __init__(self, predictor: Predictor, pool: ThreadPoolExecutor, threads: int) -> None:
        self._predictor, self._pool, self._threads = predictor, pool, threads

    def encode(self, image: npt.NDArray[np.uint8], /) -> _SpreadScene:
        return _SpreadScene(self._predictor.encode(image), self._pool, self._threads)


class _SpreadScene:
    def __init__(self, scene: EncodedImage, pool: ThreadPoolExecutor, threads: int) -> None:
        self._scene, self._pool, self._threads = scene, pool, threads

    def depth(self, points: npt.NDArray[np.float64], /) -> npt.NDArray[np.floating]:
        parts = np.array_split(points, max(1, min(self._threads, len(points) // LEAST_POINTS)))
        return np.concatenate(list(self._pool.map(self._scene.depth, parts)))
