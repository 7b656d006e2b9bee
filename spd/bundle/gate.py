"""What every form of a model is held to: the same images, points and tolerances, from the export to an engine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spd.data.rooms import render_room

IMAGES = ("rendered room", "noise")
"""What the images of `check_images` are, for messages."""

REFERENCE_POINTS = 4096
"""Points per image that a reference answers; a larger K repeats them."""

MEAN_POINTS = 37
"""Fewest points of a case whose mean error counts; fewer are no mean."""

UNDECIDED = 1e-5
"""Relative gap between the last routed and the first unrouted L4 weight below which float32 does not decide the route.

Two correct implementations round these weights differently by about 1e-6, and where that swaps the two, depth jumps by
up to 5e-3: a property of top-k, not an error of either. Such points (40 of 8,192 for untrained `atto` at 480x640) are
not compared, but counted.
"""


@dataclass(frozen=True)
class Tolerance:
    """Largest relative depth errors that pass."""

    max: float
    """Of any point."""
    mean: float
    """Over a case of `MEAN_POINTS` or more."""


TOLERANCES = {
    "fp32": Tolerance(1e-4, 1e-4),
    "fp16": Tolerance(2e-2, 2e-3),
    "bf16": Tolerance(5e-2, 1e-2),
    # A single point may jump where 8 bits choose other routes; its mean and 100 rooms judge these graphs.
    "int8": Tolerance(0.5, 2e-2),
    "int8-fp16": Tolerance(0.5, 2e-2),
    "fp8": Tolerance(0.5, 2e-2),
}


def check_images(height: int, width: int) -> NDArray[np.uint8]:
    """A rendered room and noise, uint8 [2, height, width, 3]."""
    room = render_room(1, height, width).image
    return np.stack([room, np.random.default_rng(0).integers(0, 256, room.shape, dtype=np.uint8)])


def check_points(height: int, width: int, count: int, seed: int) -> NDArray[np.float32]:
    """`count` points (u, v), float32 [count, 2].

    The centre, corners, borders, outside by up to 6 L1 cells and far away, duplicates; then random ones.
    """
    w, h = float(width), float(height)
    special = [
        (w / 2, h / 2), (0, 0), (w, h), (w, 0), (0, h), (w / 2, 0), (0, h / 2), (w, h / 2), (w / 2, h),
        (0.5, 0.5), (w - 0.5, h - 0.5), (16, 16), (32, 32), (w - 16, h - 16),
        (-24, -24), (w + 24, h + 24), (-13.7, h / 3), (w + 5.2, h / 5), (w / 4, -7.9), (w / 7, h + 23.3),
        (-200, h / 2), (w + 500, -500), (w / 2, h / 2), (0, 0),
    ]  # fmt: skip
    rng = np.random.default_rng(seed)
    spread = rng.uniform((-24, -24), (w + 24, h + 24), size=(count, 2))
    return np.concatenate([np.array(special), spread])[:count].astype(np.float32)


def relative_error(
    depth: NDArray[np.float32], expected: NDArray[np.float32], undecided: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Relative error of each depth, all [B, K]; 0 where the route is undecided, unless the depth is not finite."""
    error = np.abs(depth.astype(np.float64) / expected - 1)
    return np.where(undecided & np.isfinite(error), 0.0, error)
