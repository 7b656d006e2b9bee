"""Medians, percentiles, ratios of paired turns, and where two costs meet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

AT_ONCE = 0.0
"""Break-even of what is dearer before the first point."""
NEVER = math.inf
"""Break-even of what stays cheaper."""


@dataclass(frozen=True)
class Spread:
    """What the rounds said."""

    median: float
    p10: float
    """10th percentile."""
    p90: float
    """90th percentile."""
    rounds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarise at least one value; infinities are larger than everything else."""
        return cls(quantile(values, 0.5), quantile(values, 0.1), quantile(values, 0.9), len(values))


def quantile(values: Sequence[float], share: float) -> float:
    """The value that `share` (0..1) of the values lie below, between two of them by their distance."""
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    low = math.floor(position)
    part = position - low
    below, above = ordered[low], ordered[min(low + 1, len(ordered) - 1)]
    # Two infinities have no difference to take a part of.
    return below if part == 0 or below == above else below + (above - below) * part


def ratio(above: Sequence[float], below: Sequence[float]) -> Spread:
    """The ratios of values of the same rounds."""
    return Spread.of([a / b for a, b in zip(above, below, strict=True)])


def break_even(encode: float, decode: Mapping[int, float], dense: float) -> float:
    """The number of points K at which `encode + decode[K]` reaches `dense`; all in the same unit of time.

    Linear between the K that were measured, and beyond the largest as between the last two of K = 0 and those.

    Returns:
        `AT_ONCE` if encoding alone takes as long, `NEVER` if points cost nothing at the end.
    """
    if encode >= dense:
        return AT_ONCE
    known = [(0, encode), *((count, encode + decode[count]) for count in sorted(decode))]
    for (left, before), (right, after) in pairwise(known):
        if after >= dense:
            return left + (right - left) * (dense - before) / (after - before)
    (left, before), (right, after) = known[-2:]
    slope = (after - before) / (right - left)
    return right + (dense - after) / slope if slope > 0 else NEVER
