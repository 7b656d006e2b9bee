"""The proof of a pair of plans: they run on this GPU and give the depth of the float32 graphs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from engines.executor import Arrays, Executor
from engines.reference import Gate, Reference
from spd.bundle.comparison import Case, Comparison, compare
from spd.bundle.plans import PlanProfile
from spd.errors import ParityError


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
) -> Comparison:
    """Run both plans on every case and compare with the reference; `tick` is told the share done.

    Raises:
        ParityError: an error is beyond the tolerance; names the worst point.
        BackendError: TensorRT or CUDA fails.
    """
    plan = proof_cases(gate, encoder.profiles[0].batch[2], decoder.profiles)
    steps = sum(len(runs) for _, runs in plan)
    found: list[Case] = []
    for batch, runs in plan:
        images = reference.images[np.arange(batch) % len(reference.images)]
        cache = encoder.run(0, {"image": images})
        for profile, k in runs:
            tick(len(found) / steps)
            found.append(_compare(decoder, cache, reference, gate.undecided, (batch, profile, k)))
    proof = Comparison(precision, gate.tolerance, tuple(found))
    if not proof.passed:
        raise ParityError(_message(proof))
    return proof


def _compare(
    decoder: Executor,
    cache: Arrays,
    reference: Reference,
    undecided: tuple[tuple[int, int], ...],
    where: tuple[int, int, int],
) -> Case:
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
    return compare({"profile": profile}, points, depth, expected, decided[of_image][:, picked])


def _message(proof: Comparison) -> str:
    farthest, worst = proof.farthest, proof.farthest.worst
    return (
        f"the {proof.precision} engines do not compute what the float32 graphs compute: {proof.difference}; "
        f"worst point ({worst.u:g}, {worst.v:g}) of image {worst.image} at B={farthest.batch} K={farthest.points} in "
        f"profile {farthest.ran['profile']}: {worst.got:.4g} m, expected {worst.expected:.4g} m; no engine was written "
        "(try a lower --optimization-level, or --no-verify to keep it all the same)"
    )
