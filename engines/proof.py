"""The proof of a pair of plans: they run on this GPU and pass the gate that the export held its graphs to."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engines.executor import Arrays, Executor
from spd.bundle import GATE, PARITY, Bundle
from spd.bundle.comparison import Case, Comparison, compare
from spd.bundle.gate import Tolerance
from spd.bundle.plans import PlanProfile
from spd.bundle.reference import Reference, read_reference
from spd.errors import BundleError, ParityError


@dataclass(frozen=True)
class Gate:
    """What the export held the graphs of one precision to, and where."""

    reference: Reference
    tolerance: Tolerance
    cases: tuple[tuple[int, int], ...]
    """Images and points per image of every case."""


def read_gate(bundle: Bundle, precision: str) -> Gate:
    """The images, points and depths of the export, from `gate.npz`; its tolerances and cases, from `parity.json`.

    Raises:
        BundleError: the bundle was never verified, or a file is missing or cannot be used.
    """
    if not bundle.manifest.verified:
        raise BundleError(
            f"{bundle.path} was exported with --no-verify, so there is nothing to hold its engines to; export it again "
            "without, or build with --no-verify"
        )
    path = bundle.file(PARITY)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))[precision]
        tolerance = Tolerance(float(found["tolerance"]["max"]), float(found["tolerance"]["mean"]))
        cases = {(int(case["batch"]), int(case["points"])) for case in found["cases"]}
        if not (cases and all(batch >= 1 and 1 <= k <= bundle.manifest.max_points for batch, k in cases)):
            raise ValueError(f"cases {sorted(cases)}")
        if not (0 < tolerance.max < 1 and 0 < tolerance.mean < 1):
            raise ValueError(f"{tolerance}")
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise BundleError(f"{path} has no tolerance and cases for {precision}; export the bundle again") from error
    return Gate(read_reference(bundle), tolerance, tuple(sorted(cases)))


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
    precision: str, encoder: Executor, decoder: Executor, gate: Gate, tick: Callable[[float], None]
) -> Comparison:
    """Run both plans on every case and compare with the model's depths; `tick` is told the share done.

    Raises:
        ParityError: an error is beyond the tolerance; names the worst point.
        BackendError: TensorRT or CUDA fails.
    """
    plan = proof_cases(gate, encoder.profiles[0].batch[2], decoder.profiles)
    steps = sum(len(runs) for _, runs in plan)
    found: list[Case] = []
    for batch, runs in plan:
        cache = encoder.run(0, {"image": gate.reference.repeated(batch, 1).images})
        for profile, k in runs:
            tick(len(found) / steps)
            asked = gate.reference.repeated(batch, k)
            found.append(compare({"profile": profile}, _decode(decoder, profile, cache, asked), asked))
    proof = Comparison(precision, gate.tolerance, tuple(found))
    if not proof.passed:
        raise ParityError(_message(proof, len(gate.reference.images)))
    return proof


def _decode(decoder: Executor, profile: int, cache: Arrays, asked: Reference) -> NDArray[np.float32]:
    """Depth [B, K] of the points of each image of a batch, image by image as the runtime does."""
    rows = [
        decoder.run(
            profile,
            {**{name: array[i : i + 1] for name, array in cache.items()}, "points": asked.points[i : i + 1]},
        )["depth"]
        for i in range(len(asked.points))
    ]
    return np.concatenate(rows)


def _message(proof: Comparison, images: int) -> str:
    farthest, worst = proof.farthest, proof.farthest.worst
    return (
        f"the {proof.precision} engines do not compute what the model computes: {proof.difference}; "
        f"worst point ({worst.u:g}, {worst.v:g}) of image {worst.image % images} of {GATE} at B={farthest.batch} "
        f"K={farthest.points} in profile {farthest.ran['profile']}: {worst.got:.4g} m, expected {worst.expected:.4g} "
        "m; no engine was written (try a lower --optimization-level, or --no-verify to keep it all the same)"
    )
