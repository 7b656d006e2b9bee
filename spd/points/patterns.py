"""Points that are made on the spot, for the size of each image."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spd.errors import PointsError
from spd.points.table import PointTable

MAX_POINTS = 10_000_000
"""Most points that `grid:` and `random:` make per image."""


@dataclass(frozen=True)
class Pattern:
    """Points that are made for the size of each image."""

    kind: str
    """`grid` or `random`."""
    count: int
    """How many points, at least 1."""
    seed: int = 0
    """Of `random`."""

    def table(self, width: int, height: int) -> PointTable:
        """The points for an image of width x height pixels, to a thousandth of a pixel."""
        if self.kind == "grid":
            points = grid(self.count, width, height)
        else:
            points = np.random.default_rng(self.seed).random((self.count, 2)) * (width, height)
        points = np.floor(points * 1000) / 1000  # downwards, as rounding could leave the image
        return PointTable(
            name=f"{self.kind}:{self.count}",
            head="u,v",
            columns=("u", "v"),
            rows=[f"{u:.3f},{v:.3f}" for u, v in points.tolist()],
            lines=np.arange(1, self.count + 1),
            points=points,
        )

    def table_without_points(self) -> PointTable:
        """A single row without a point, for an image whose size is not known."""
        return PointTable(
            name=f"{self.kind}:{self.count}",
            head="u,v",
            columns=("u", "v"),
            rows=[","],
            lines=np.array([1]),
            points=np.full((1, 2), np.nan),
        )


def grid(count: int, width: int, height: int) -> NDArray[np.float64]:
    """Exactly `count` points on a regular grid in a width x height image, row by row: float64 [count, 2].

    Each point is the centre of its cell. Columns x rows is the factorisation of `count` with the squarest cells; if
    those are longer than 3:2 (as for a prime), rows have equal height and differ by at most one point instead.
    """
    ideal = math.sqrt(count * height / width)  # rows, for square cells
    divisors = [d for i in range(1, math.isqrt(count) + 1) if count % i == 0 for d in (i, count // i)]
    rows = min(divisors, key=lambda d: abs(math.log(d / ideal)))
    if not 2 / 3 <= rows / ideal <= 3 / 2:
        rows = min(max(round(ideal), 1), count)
    row = np.arange(count) * rows // count  # the row of each point
    in_row = np.bincount(row, minlength=rows)
    column = np.arange(count) - (np.cumsum(in_row) - in_row)[row]
    return np.stack([(column + 0.5) / in_row[row] * width, (row + 0.5) / rows * height], axis=1)


def parse_pattern(source: str, kind: str, numbers: str) -> Pattern:
    """The pattern that `source`, kind:numbers, names.

    Raises:
        PointsError: N or SEED is not a number, or N is too large.
    """
    form = "grid:N" if kind == "grid" else "random:N or random:N:SEED"
    count, *seed = numbers.split(":")
    if not all(re.fullmatch("[0-9]{1,12}", number) for number in (count, *seed)) or len(seed) > (kind == "random"):
        raise PointsError(f"{source[:60]!r} is not {form} with whole numbers, as in {kind}:256")
    if not 1 <= int(count) <= MAX_POINTS:
        raise PointsError(f"{source!r} asks for {int(count)} points, expected 1 to {MAX_POINTS}")
    return Pattern(kind, int(count), *map(int, seed))
