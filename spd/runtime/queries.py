"""Points on their way to a backend: checked, mapped to the graph's image, and asked in calls of its size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spd.errors import PointsError
from spd.preprocess import Letterbox, inside
from spd.runtime.arrays import to_host
from spd.runtime.residency import Residency, Resident

Ask = Callable[[Any, NDArray[np.float32]], NDArray[Any]]
"""A query of a backend: of a cache and points [1, K, 2] in pixels of the graph's image, an answer [1, K, ...]."""


def as_points(points: Any, stream: Any = None) -> NDArray[np.float64]:
    """Points [K, 2] of any numbers as float64, which holds every pixel coordinate in float32 exactly.

    Raises:
        PointsError: they are not numbers, or of another shape.
    """
    try:
        array = np.asarray(to_host(points, stream), dtype=np.float64)
    except (TypeError, ValueError, OverflowError, BufferError, RuntimeError) as error:  # a huge int overflows
        raise PointsError(f"points are not numbers ({error}); expected (u, v) pairs, an array [K, 2]") from error
    if array.size == 0 and array.shape in ((0,), (0, 2)):
        return array.reshape(0, 2)
    if array.ndim != 2 or array.shape[1] != 2:
        raise PointsError(f"points have shape {list(array.shape)}, expected [K, 2]: one (u, v) pair for each point")
    return array


def are_inside(points_K2: NDArray[np.float64], width: int, height: int) -> bool:
    """Whether all points, at least one, are finite and inside an image."""
    # NaN comes through all three, and is not inside. They take a fifth of the time of `inside`.
    least = np.minimum.reduce(points_K2, axis=None)
    u, v = np.maximum.reduce(points_K2[:, 0]), np.maximum.reduce(points_K2[:, 1])
    return bool(least >= 0 and u < width and v < height)


def which_inside(points_K2: NDArray[np.float64], width: int, height: int, outside: str) -> NDArray[np.bool_]:
    """Which points are inside an image: bool [K].

    Raises:
        PointsError: one is not finite; or, where `outside` is "error", not inside.
    """
    finite = np.isfinite(points_K2).all(axis=1)
    if not finite.all():
        first = int(np.argmin(finite))
        raise PointsError(f"point {first} is {tuple(points_K2[first].tolist())}, expected finite pixel coordinates")
    within = inside(points_K2, width, height)
    if outside == "error" and not within.all():
        first = int(np.argmin(within))
        u, v = points_K2[first]
        raise PointsError(
            f"point {first} ({u:g}, {v:g}) is outside the image of {width} x {height} pixels; "
            'expected 0 <= u < width and 0 <= v < height, or outside="nan"'
        )
    return within


def query(
    residency: Residency, resident: Resident, letterbox: Letterbox, points_K2: NDArray[np.float64], ask: Ask
) -> NDArray[Any]:
    """The answers [K, ...] for points [K, 2], at least one, in pixels of the image; all have to be inside."""
    graph_1K2 = letterbox.to_graph(points_K2)[None]
    step = residency.backend.max_points
    cache = residency.enter(resident)
    try:
        if len(points_K2) <= step:
            answer: NDArray[Any] = ask(cache, graph_1K2)[0]
            return answer
        starts = range(0, len(points_K2), step)
        return np.concatenate([ask(cache, graph_1K2[:, start : start + step])[0] for start in starts])
    finally:
        residency.leave(resident)
