"""The proof of a pair of plans: they run on this GPU and pass the gate that the export held its graphs to."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from engines.executor import Arrays, Executor
from spd.bundle import GATE, PARITY, Bundle
from spd.bundle.comparison import Case, Comparison, compare
from spd.bundle.gate import Tolerance
from spd.bundle.reference import Reference, read_reference
from spd.errors import BundleError, ParityError

DIFFERENT_POINTS = 7
"""Points that are asked again and again in one call, so that each stands at many places of a kernel's tiles."""


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


@dataclass(frozen=True)
class Trial:
    """One thing to run."""

    images: int
    points: int
    """For each image; as the runtime does, they go in chunks of the largest bucket, filled up to the next one."""
    together: bool = False
    """Whether the encoder takes all images in one call."""
    equal: bool = False
    """Whether its rows are equal: images that go together, or else `DIFFERENT_POINTS` points again and again."""


def proof_trials(gate: Gate, max_batch: int, sizes: tuple[int, ...]) -> tuple[Trial, ...]:
    """What to run.

    The export's cases. Every bucket with the fewest points that are padded to it, with one less than it holds, and
    full. Several images together, if the encoder takes them. And equal rows, which TensorRT has been seen to answer
    differently (NVIDIA/TensorRT#4796, #4813, #4853).

    Args:
        gate: what the export was held to.
        max_batch: most images that the encoder takes in one call.
        sizes: K of each bucket, rising.
    """
    found = [Trial(batch, k) for batch, k in gate.cases]
    for below, size in zip((0, *sizes), sizes, strict=False):
        found += [Trial(1, k) for k in (below + 1, size - 1, size) if k > below]
        found.append(Trial(1, size, equal=True))
    if max_batch > 1:
        found += [Trial(batch, k, together=True) for batch, k in gate.cases if 1 < batch <= max_batch]
        found += [Trial(max_batch, sizes[0], together=True, equal=equal) for equal in (False, True)]
    return tuple(dict.fromkeys(found))


def prove(
    precision: str, encoder: Executor, decoder: Executor, gate: Gate, tick: Callable[[float], None]
) -> Comparison:
    """Run both plans on every trial and compare with the model's depths; `tick` is told the share done.

    Equal rows are compared with the first of them too, and images that go together with the same ones alone.

    Raises:
        ParityError: an error is beyond the tolerance; names the worst point.
        BackendError: TensorRT or CUDA fails.
    """
    plans = _Plans(encoder, decoder)
    trials = proof_trials(gate, plans.max_batch, plans.sizes)
    found: list[Case] = []
    for done, trial in enumerate(trials):
        tick(done / len(trials))
        found += _compare(trial, gate.reference, plans)
    proof = Comparison(precision, gate.tolerance, tuple(found))
    if not proof.passed:
        raise ParityError(_message(proof, len(gate.reference.images)))
    return proof


class _Plans:
    """Both plans, run as the runtime runs them."""

    def __init__(self, encoder: Executor, decoder: Executor) -> None:
        self._encoder, self._decoder = encoder, decoder
        self._alone: dict[bytes, Arrays] = {}
        """Caches of images that were encoded alone."""
        self.max_batch = max(profile.batch[2] for profile in encoder.profiles)
        self.sizes = tuple(profile.points[2] for profile in decoder.profiles if profile.points is not None)

    def depth(self, asked: Reference, together: bool) -> NDArray[np.float32]:
        """Depth [B, K] of the points of each image."""
        if together:
            last = len(self._encoder.profiles) - 1
            batch = self._encoder.run(last, {"image": asked.images})
            caches = [{name: array[i : i + 1] for name, array in batch.items()} for i in range(len(asked.images))]
        else:
            caches = [self._encode(image) for image in asked.images]
        return np.concatenate(
            [self._decode(cache, points[None]) for cache, points in zip(caches, asked.points, strict=True)]
        )

    def _encode(self, image: NDArray[np.uint8]) -> Arrays:
        key = image.tobytes()
        if key not in self._alone:
            self._alone[key] = self._encoder.run(0, {"image": image[None]})
        return self._alone[key]

    def _decode(self, cache: Arrays, points: NDArray[np.float32]) -> NDArray[np.float32]:
        parts, largest = [], self.sizes[-1]
        for start in range(0, points.shape[1], largest):
            part = points[:, start : start + largest]
            count = part.shape[1]
            profile = next(i for i, size in enumerate(self.sizes) if count <= size)
            padded = np.pad(part, ((0, 0), (0, self.sizes[profile] - count), (0, 0)))
            parts.append(self._decoder.run(profile, {**cache, "points": padded})["depth"][:, :count])
        return np.concatenate(parts, axis=1)


def _compare(trial: Trial, reference: Reference, plans: _Plans) -> list[Case]:
    """One trial, with the model's depths and with what has to be the same."""
    images, points = reference.points.shape[:2]
    if trial.equal:
        images, points = (1, points) if trial.together else (images, min(DIFFERENT_POINTS, points))
    asked = _first(reference, images, points).repeated(trial.images, trial.points)
    depth = plans.depth(asked, trial.together)
    how = {"together": trial.together}
    found = [compare({**how, "with": "the model"}, depth, asked)]
    if trial.equal:
        rows, columns = np.arange(trial.images) % images, np.arange(trial.points) % points
        found.append(compare({**how, "with": "equal rows"}, depth, replace(asked, depth=depth[np.ix_(rows, columns)])))
    elif trial.together:
        alone = plans.depth(asked, together=False)
        found.append(compare({**how, "with": "each image alone"}, depth, replace(asked, depth=alone)))
    return found


def _first(reference: Reference, images: int, points: int) -> Reference:
    cells = slice(images), slice(points)
    return Reference(
        reference.images[:images], reference.points[cells], reference.depth[cells], reference.undecided[cells]
    )


def _message(proof: Comparison, images: int) -> str:
    farthest, worst = proof.farthest, proof.farthest.worst
    together = " in one call" if farthest.ran["together"] else ""
    return (
        f"the {proof.precision} engines do not compute what the model computes: {proof.difference}; "
        f"worst point ({worst.u:g}, {worst.v:g}) of image {worst.image % images} of {GATE} at B={farthest.batch}"
        f"{together} and K={farthest.points}, compared with {farthest.ran['with']}: {worst.got:.4g} m, "
        f"expected {worst.expected:.4g} m; no engine was written (try a lower --optimization-level, or --no-verify to "
        "keep it all the same)"
    )
