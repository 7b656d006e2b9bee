"""Depths of one form of a model beside those expected: what the gates of export and engines measure and report."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spd.bundle.gate import MEAN_POINTS, Tolerance, relative_error
from spd.bundle.reference import Reference


@dataclass(frozen=True)
class Worst:
    """Where depth is farthest from what was expected."""

    image: int
    """Index of the image."""
    u: float
    v: float
    expected: float
    """Depth, metres."""
    got: float


@dataclass(frozen=True)
class Case:
    """One comparison; errors are relative to the expected depth."""

    ran: dict[str, Any]
    """What ran, such as a runner's name or a profile's number: for the report."""
    batch: int
    """Images."""
    points: int
    """Points per image."""
    max_error: float
    mean_error: float
    worst: Worst

    def as_dict(self) -> dict[str, Any]:
        """For a report, without the worst point."""
        errors = {"max_error": self.max_error, "mean_error": self.mean_error}
        return {**self.ran, "batch": self.batch, "points": self.points, **errors}


def compare(
    ran: dict[str, Any],
    depth: NDArray[np.float32],
    reference: Reference,
) -> Case:
    """Compare depths [B, K] with those of a reference of the same B and K."""
    points, expected = reference.points, reference.depth
    error = relative_error(depth, expected, reference.undecided)
    image, point = np.unravel_index(int(np.argmax(np.where(np.isnan(error), np.inf, error))), error.shape)
    (batch, count), at = error.shape, (image, point)
    u, v = (float(x) for x in points[at])
    worst = Worst(int(image), u, v, float(expected[at]), float(depth[at]))
    return Case(ran, batch, count, float(error[at]), float(error.mean()), worst)


@dataclass(frozen=True)
class Comparison:
    """All cases of one precision."""

    precision: str
    tolerance: Tolerance
    cases: tuple[Case, ...]

    @property
    def farthest(self) -> Case:
        """The case of the largest error; NaN is larger than any."""
        return max(self.cases, key=lambda case: math.inf if math.isnan(case.max_error) else case.max_error)

    @property
    def max_error(self) -> float:
        """Largest relative depth error over all cases."""
        return self.farthest.max_error

    @property
    def mean_error(self) -> float:
        """Mean relative depth error of the worst case of `MEAN_POINTS` or more."""
        return max((case.mean_error for case in self.cases if case.points >= MEAN_POINTS), default=0.0)

    @property
    def passed(self) -> bool:
        """Whether both errors are within the tolerance; NaN is not."""
        return self.max_error <= self.tolerance.max and self.mean_error <= self.tolerance.mean

    @property
    def difference(self) -> str:
        """How far they are from each other, for messages."""
        limit = self.tolerance
        return (
            f"relative depth error {self.max_error:.2g} (at most {limit.max:g}), mean {self.mean_error:.2g} (at most "
            f"{limit.mean:g})"
        )

    def as_dict(self) -> dict[str, Any]:
        """For `parity.json` and `engines.json`."""
        farthest = self.farthest
        return {
            "passed": self.passed,
            "max_error": self.max_error,
            "mean_error": self.mean_error,
            "tolerance": asdict(self.tolerance),
            "worst": {"case": farthest.as_dict(), **asdict(farthest.worst)},
            "cases": [case.as_dict() for case in self.cases],
        }
