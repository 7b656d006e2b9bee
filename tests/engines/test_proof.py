"""What plans are held to: the export's own images, points, depths, tolerances and cases."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engines.executor import Arrays
from engines.proof import Gate, Trial, proof_trials, prove, read_gate
from spd.bundle import Bundle, open_bundle
from spd.bundle.comparison import Comparison
from spd.bundle.gate import Tolerance
from spd.bundle.manifest import FileRecord
from spd.bundle.plans import PlanProfile
from spd.bundle.reference import Reference
from spd.errors import BundleError, ParityError
from spd.runtime import load


def test_the_gate_is_the_exports(exported: Path) -> None:
    parity = json.loads((exported / "parity.json").read_text())["fp16"]
    gate = read_gate(open_bundle(exported), "fp16")
    assert (gate.tolerance.max, gate.tolerance.mean) == (parity["tolerance"]["max"], parity["tolerance"]["mean"])
    assert set(gate.cases) == {(case["batch"], case["points"]) for case in parity["cases"]}
    assert {(1, 1), (2, 37), (2, 512)} <= set(gate.cases)


def test_a_bundle_without_proof_is_refused(exported: Path) -> None:
    bundle = open_bundle(exported)
    unverified = Bundle(bundle.path, replace(bundle.manifest, verified=False))
    with pytest.raises(BundleError, match="exported with --no-verify"):
        read_gate(unverified, "fp16")


def parity(maximum: object, batch: object, points: object) -> str:
    case = {"batch": batch, "points": points}
    return json.dumps({"fp16": {"tolerance": {"max": maximum, "mean": 0.002}, "cases": [case]}})


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "[]",
        "[" * 100_000,
        "no JSON",
        '{"fp16": {"tolerance": {"max": 0.02, "mean": 0.002}, "cases": []}}',
        parity(float("inf"), 1, 1),
        parity(float("nan"), 1, 1),
        parity(0, 1, 1),
        parity(0.02, 0, 1),
        parity(0.02, 1, 513),
        parity(0.02, 1, float("inf")),
    ],
)
def test_a_damaged_proof_is_refused(bundle: Path, text: str) -> None:
    (bundle / "parity.json").write_text(text)
    found = open_bundle(bundle)
    files = {**found.manifest.files, "parity.json": FileRecord.of(bundle / "parity.json")}
    with pytest.raises(BundleError, match="no tolerance and cases for fp16"):
        read_gate(Bundle(found.path, replace(found.manifest, files=files)), "fp16")


def test_the_reference_is_what_the_graphs_give(exported: Path) -> None:
    reference = read_gate(open_bundle(exported), "fp16").reference
    assert reference.images.shape == (2, 160, 192, 3)
    assert (reference.points.shape, reference.depth.shape) == ((2, 512, 2), (2, 512))
    assert np.isfinite(reference.depth).all()
    with load(exported, "onnxruntime-cpu") as model:
        for image, points, depth in zip(reference.images, reference.points, reference.depth, strict=True):
            within = np.all((points >= 0) & (points < (192, 160)), axis=-1)
            again = model.encode(image).depth(points[within])
            assert np.allclose(again, depth[within], rtol=1e-5, atol=0)


def test_the_points_that_are_not_compared_are_the_exports(exported: Path) -> None:
    parity = json.loads((exported / "parity.json").read_text())
    undecided = read_gate(open_bundle(exported), "fp16").reference.undecided
    assert undecided.sum() < 0.02 * undecided.size
    assert {result["undecided_points"] for result in parity.values()} == {undecided.sum()}


def asked(*cases: tuple[int, int]) -> Gate:
    nothing = Reference(np.zeros((1, 1, 1, 3), np.uint8), *(np.zeros((1, 1, n), np.float32) for n in (2, 1)), None)
    return Gate(nothing, Tolerance(1, 1), cases)


def test_trials_are_the_exports_and_every_buckets_ends() -> None:
    """One less than full, and the fewest, are filled up with (0, 0)."""
    trials = proof_trials(asked((1, 1), (1, 37), (2, 512)), 1, (64, 256))
    assert {(trial.images, trial.points) for trial in trials if not trial.equal} == {
        *((1, 1), (1, 37), (2, 512)),
        *((1, 63), (1, 64)),
        *((1, 65), (1, 255), (1, 256)),
    }
    assert [trial.points for trial in trials if trial.equal] == [64, 256]
    assert not any(trial.together for trial in trials), "the encoder takes one image"
    assert len(set(trials)) == len(trials)


def test_images_go_together_where_the_encoder_takes_several() -> None:
    trials = proof_trials(asked((1, 1), (2, 37), (16, 1)), 8, (8,))
    assert {trial for trial in trials if trial.together} == {
        Trial(2, 37, together=True),
        Trial(8, 8, together=True),
        Trial(8, 8, together=True, equal=True),
    }


class Executors:
    """Plans whose cache is the image's first pixel and whose depth is u + v / 1000 more than that."""

    def __init__(self) -> None:
        self.encoder = self.of((PlanProfile((1, 1, 1), None), PlanProfile((1, 1, 4), None)), self.encode)
        self.decoder = self.of(tuple(PlanProfile((1, 1, 1), (k, k, k)) for k in (4, 40)), self.decode)
        self.batches: list[tuple[int, int]] = []
        self.counts: list[tuple[int, int]] = []
        self.wrong: Callable[[NDArray[np.float32]], None] = lambda _: None
        """Spoils an output: the cache [B], or depths [1, K]."""

    @staticmethod
    def of(profiles: tuple[PlanProfile, ...], run: Callable[..., Arrays]) -> Any:
        return SimpleNamespace(profiles=profiles, run=run)

    def encode(self, profile: int, inputs: Arrays) -> Arrays:
        self.batches.append((profile, len(inputs["image"])))
        return {"cache": self.spoilt(inputs["image"][:, 0, 0, 0].astype(np.float32))}

    def decode(self, profile: int, inputs: Arrays) -> Arrays:
        (points,) = inputs["points"]
        self.counts.append((profile, len(points)))
        return {"depth": self.spoilt(inputs["cache"] + points @ np.array((1, 1e-3), np.float32))[None]}

    def spoilt(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        self.wrong(values)
        return values

    def gate(self) -> Gate:
        images = np.array([[[[3, 0, 0]]], [[[9, 0, 0]]]], np.uint8)
        points = np.random.default_rng(0).random((2, 40, 2), np.float32)
        depth = images[:, 0, 0, :1] + points @ np.array((1, 1e-3), np.float32)
        reference = Reference(images, points, depth.astype(np.float32), np.zeros(depth.shape, np.bool_))
        return Gate(reference, Tolerance(0.02, 0.002), ((1, 1), (2, 50)))

    def prove(self) -> Comparison:
        return prove("fp16", self.encoder, self.decoder, self.gate(), lambda _: None)


def test_plans_are_run_as_the_runtime_runs_them() -> None:
    """Filled up to the bucket and cut at the largest, images alone, and together under the profile for that."""
    plans = Executors()
    proof = plans.prove()
    assert proof.passed
    assert proof.max_error < 1e-6
    assert set(plans.counts) == {(0, 4), (1, 40)}
    assert set(plans.batches) == {(0, 1), (1, 2), (1, 4)}
    assert {case.ran["with"] for case in proof.cases} == {"the model", "equal rows", "each image alone"}
    assert {(case.batch, case.points) for case in proof.cases} >= {(2, 50), (1, 5), (1, 39), (4, 4)}


def second_half(values: NDArray[np.float32]) -> None:
    values[len(values) // 2 :] *= 1.03


def last_of_a_batch(values: NDArray[np.float32]) -> None:
    if len(values) == 4 and len(set(values.tolist())) <= 2:
        values[-1] *= 1.03


def filled_up(values: NDArray[np.float32]) -> None:
    if len(values) == 40 and values[-1] in (3, 9):
        values *= 1.03


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (second_half, r"at B=\d+ and K="),
        (last_of_a_batch, r"at B=4 in one call and K=4"),
        (filled_up, r"at B=\d and K=\d+"),
    ],
)
def test_what_tensorrt_has_got_wrong_is_found(wrong: Callable[[NDArray[np.float32]], None], message: str) -> None:
    """Rows that depend on their place, on how many go together, on what fills them up."""
    plans = Executors()
    plans.wrong = wrong
    with pytest.raises(ParityError, match=message):
        plans.prove()


def test_equal_rows_are_compared_with_each_other() -> None:
    """They can be far apart while each is still near enough to the model."""
    plans = Executors()

    def wrong(values: NDArray[np.float32]) -> None:
        if len(values) == 40:
            values[:7] *= 1 - 0.0019
            values[7:] *= 1 + 0.0019

    plans.wrong = wrong
    with pytest.raises(ParityError, match="compared with equal rows"):
        plans.prove()
