"""What plans are held to: the export's own images, points, depths, tolerances and cases."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engines.proof import Gate, proof_cases, read_gate
from spd.bundle import Bundle, open_bundle
from spd.bundle.gate import Tolerance
from spd.bundle.manifest import FileRecord
from spd.bundle.plans import PlanProfile
from spd.bundle.reference import Reference
from spd.errors import BundleError
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


def test_cases_are_the_exports_and_every_profiles_ends() -> None:
    gate = asked((1, 1), (1, 37), (1, 512), (2, 37))
    profiles = tuple(PlanProfile((1, 1, 1), points) for points in ((1, 32, 64), (65, 256, 256), (257, 512, 512)))
    assert proof_cases(gate, 8, profiles) == (
        (1, ((0, 1), (0, 32), (0, 37), (0, 64), (1, 65), (1, 256), (2, 257), (2, 512))),
        (2, ((0, 37),)),
        (8, ((0, 64),)),
    )


def test_a_bundle_for_single_images_is_asked_for_no_more() -> None:
    gate = asked((1, 1), (2, 1))
    assert proof_cases(gate, 1, (PlanProfile((1, 1, 1), (1, 8, 8)),)) == ((1, ((0, 1), (0, 8))),)
