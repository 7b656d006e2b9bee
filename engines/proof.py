"""The proof of a pair of plans: they run on this GPU and give the depth of the float32 graphs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from engines.executor import Arrays, Executor
from engines.reference import Gate, Reference
from spd.errors import ParityError
from spd.parity import MEAN_POINTS, relative_error
from spd.plans import PlanProfile


@dataclass(frozen=True)
class Case:
    """One comparison; errors are relative to the reference's depth."""

    batch: int
    """Images in the encoder's call."""
    points: int
    """Points per image."""
    profile: int
    """The decoder's optimisation profile."""
    max_error: float
    mean_error: float


@dataclass(frozen=True)
class Worst:
    """Where the largest error was."""

    case: Case
    image: int
    u: float
    v: float
    expected: float
    got: float


@dataclass(frozen=True)
class Proof:
    """What the comparison measured."""

    precision: str
    gate: Gate
    cases: tuple[Case, ...]
    worst: Worst

    @property
    def max_error(self) -> float:
        """Largest relative depth error over all cases."""
        return self.worst.case.max_error

    @property
    def mean_error(self) -> float:
        """Mean relative depth error of the worst case of `MEAN_POINTS` or more."""
        return max((case.mean_error for case in self.cases if case.points >= MEAN_POINTS), default=0.0)

    @property
    def passed(self) -> bool:
        """Whether both errors are within the tolerance; NaN is not."""
        return self.max_error <= self.gate.max_error and self.mean_error <= self.gate.mean_error

    def as_dict(self) -> dict[str, Any]:
        """For `engines.json`."""
        return {
            "passed": self.passed,
            "max_error": self.max_error,
            "mean_error": self.mean_error,
            "tolerance": {"max": self.gate.max_error, "mean": self.gate.mean_error},
            "reference": "the float32 graphs on onnxruntime-cpu",
            "worst": asdict(self.worst),
            "cases": [asdict(case) for case in self.cases],
        }


def proof_cases(
    gate: Gate, max_batch: int, profiles: tuple[PlanProfile, ...]
) -> tuple[tuple[int, tuple[tuple[int, int], ...]], ...]:
    """What to run: per number of images, the decoder's profiles and K.

    The export's cases, every profile's smallest, best and largest K with one image, and the largest batch.

    Returns:
        Pairs of batch and ((profile, K), ...).
    """
    ranges = [profile.points for profile in profiles if profile.points is not None]

    def placed(k: int) -> tuple[int, int]:
        return next(i for i, (low, _, high) in enumerate(ranges) if low <= k <= high), k

    wanted = {(batch, *placed(k)) for batch, k in gate.cases if batch <= max_batch}
    wanted |= {(1, i, k) for i, sizes in enumerate(ranges) for k in sizes}
    wanted.add((max_batch, *placed(ranges[0][2])))
    batches = sorted({batch for batch, _, _ in wanted})
    return tuple((batch, tuple(sorted((i, k) for b, i, k in wanted if b == batch))) for batch in batches)


def prove(
    precision: str,
    encoder: Executor,
    decoder: Executor,
    reference: Reference,
    gate: Gate,
    tick: Callable[[float], None],
) -> Proof:
    """Run both plans on every case and compare with the reference; `tick` is told the share done.

    Raises:
        ParityError: an error is beyond the tolerance; names the worst point.
        BackendError: TensorRT or CUDA fails.
    """
    plan = proof_cases(gate, encoder.profiles[0].batch[2], decoder.profiles)
    steps = sum(len(runs) for _, runs in plan)
    found: list[Worst] = []
    for batch, runs in plan:
        images = reference.images[np.arange(batch) % len(reference.images)]
        cache = encoder.run(0, {"image": images})
        for profile, k in runs:
            tick(len(found) / steps)
            found.append(_compare(decoder, cache, reference, gate.undecided, (batch, profile, k)))
    worst = max(found, key=lambda item: np.inf if np.isnan(item.case.max_error) else item.case.max_error)
    proof = Proof(precision, gate, tuple(item.case for item in found), worst)
    if not proof.passed:
        raise ParityError(_message(proof))
    return proof


def _compare(
    decoder: Executor,
    cache: Arrays,
    reference: Reference,
    undecided: tuple[tuple[int, int], ...],
    where: tuple[int, int, int],
) -> Worst:
    """Decode K points of each image of a batch, image by image as the runtime does."""
    batch, profile, k = where
    of_image = np.arange(batch) % len(reference.images)
    picked = np.arange(k) % reference.points.shape[1]
    points, expected = reference.points[of_image][:, picked], reference.depth[of_image][:, picked]
    rows = [
        decoder.run(
            profile,
            {**{name: array[i : i + 1] for name, array in cache.items()}, "points": points[i : i + 1]},
        )["depth"]
        for i in range(batch)
    ]
    depth = np.concatenate(rows)
    decided = np.ones(reference.points.shape[:2], dtype=bool)
    decided[tuple(np.array(undecided, dtype=int).reshape(-1, 2).T)] = False
    error = relative_error(depth, expected, decided[of_image][:, picked])
    image, point = np.unravel_index(int(np.argmax(np.where(np.isnan(error), np.inf, error))), error.shape)
    case = Case(batch, k, profile, float(error[image, point]), float(error.mean()))
    u, v = (float(x) for x in points[image, point])
    return Worst(case, int(image), u, v, float(expected[image, point]), float(depth[image, point]))


def _message(proof: Proof) -> str:
    worst, gate = proof.worst, proof.gate
    return (
        f"the {proof.precision} engines do not compute what the float32 graphs compute: relative depth error "
        f"{proof.max_error:.2g} (at most {gate.max_error:g}), mean {proof.mean_error:.2g} (at most "
        f"{gate.mean_error:g}); worst point ({worst.u:g}, {worst.v:g}) of image {worst.image} at B={worst.case.batch} "
        f"K={worst.case.points} in profile {worst.case.profile}: {worst.got:.4g} m, expected {worst.expected:.4g} m; "
        "no engine was written (try a lower --optimization-level, or --no-verify to keep it all the same)"
    )
