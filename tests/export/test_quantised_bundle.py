"""8-bit graphs: what the bundle and the command say of them, and the gate in metres."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from export_support import HEIGHT, NAME, WIDTH, refused, run
from PIL import Image
from quantise_support import INT8, few_rooms

import export.quantise
from export.accuracy import QuantisedResult, RoomDepths
from export.calibration import calibration_set
from spd.bundle import PARITY, open_bundle
from spd.bundle.comparison import Case, Worst
from spd.bundle.contract import QUANTISED
from spd.bundle.gate import TOLERANCES
from spd.data.rooms import render_room
from spd.utils.metrics import Metrics


def test_the_manifest_names_the_calibration_set_by_its_hash(quantised: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few_rooms(monkeypatch)
    manifest = open_bundle(quantised).manifest
    assert manifest.precisions == ("fp32", "int8", "int8-fp16", "fp8")
    rooms = calibration_set(None, HEIGHT, WIDTH, 512, lambda _: None)
    assert manifest.calibration == rooms.record
    assert (rooms.record.source, rooms.record.images) == ("rendered rooms", 4)
    other = calibration_set(None, HEIGHT, WIDTH, 3, lambda _: None)
    assert other.points.shape == (4, 3, 2)
    assert other.record.sha256 != rooms.record.sha256


@pytest.mark.parametrize("precision", QUANTISED)
def test_the_report_has_the_rooms(quantised: Path, precision: str) -> None:
    report = json.loads((quantised / PARITY).read_text(encoding="utf-8"))[precision]
    assert report["passed"]
    assert 0 < report["rooms"]["mean_change"] < 2e-2
    assert report["rooms"]["count"] == 6
    assert report["rooms"]["fp32"].keys() == report["rooms"][precision].keys() >= {"abs_rel", "delta1"}
    # What spd-build needs to prove engines with.
    assert {(case["batch"], case["points"]) for case in report["cases"]} >= {(1, 1), (2, 512)}


def photos(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for i, name in enumerate(names):
        Image.fromarray(render_room(i, 60, 100).image).save(folder / name)
    return folder


@pytest.mark.usefixtures("quick")
def test_photos_are_calibrated_on_and_unreadable_ones_are_named(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos", "a.png", "b.jpg")
    (folder / "c.jpg").write_bytes(b"no image")
    result = run(*INT8, "--images", folder, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert "1 images were not calibrated on, such as: " in result.stderr
    assert "c.jpg" in result.stderr
    assert "8-bit graphs were judged by how much they change" in result.stderr
    calibration = open_bundle(tmp_path / NAME).manifest.calibration
    assert calibration is not None
    assert (calibration.source, calibration.images) == ("photos of photos", 2)


def test_a_photo_is_seen_as_the_runtime_sees_it(tmp_path: Path) -> None:
    found = calibration_set(photos(tmp_path / "photos", "a.png"), HEIGHT, WIDTH, 512, lambda _: None)
    assert found.images.shape == (1, HEIGHT, WIDTH, 3)
    top = (HEIGHT - round(60 * WIDTH / 100)) // 2
    assert (found.images[0, : top - 1] == (124, 116, 104)).all()
    assert (found.points[0, :, 1] >= top).all()
    assert (found.points[0, :, 1] <= HEIGHT - top).all()


@pytest.mark.usefixtures("quick")
def test_of_many_photos_some_at_equal_distances_are_taken(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos", *(f"{i}.png" for i in range(7)))
    taken = calibration_set(folder, HEIGHT, WIDTH, 1, lambda _: None).images
    expected = []
    for i in (0, 2, 4, 6):
        one = photos(tmp_path / str(i), f"{i}.png")
        Image.open(folder / f"{i}.png").save(one / f"{i}.png")
        expected.append(calibration_set(one, HEIGHT, WIDTH, 1, lambda _: None).images[0])
    np.testing.assert_array_equal(taken, expected)


# The gate.


@pytest.fixture
def coarse(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Activations of a sixteenth of the range that they have."""

    def spoil(model: ir.Model) -> ir.Model:
        for name, value in model.graph.initializers.items():
            if name.endswith("_scale") and ".weight" not in name:
                assert value.const_value is not None
                value.const_value = ir.tensor(value.const_value.numpy() / 16, name=name)
        return model

    original = export.quantise.quantised_graph
    monkeypatch.setattr(export.quantise, "quantised_graph", lambda *arguments: spoil(original(*arguments)))


@pytest.mark.usefixtures("coarse")
def test_graphs_beyond_the_gate_are_not_published(tmp_path: Path) -> None:
    result = run(*INT8, "--out", tmp_path)
    refused(
        result, 1, "int8 graphs are too far from the float32 ones", "on average (at most 2%)", "no bundle was written"
    )
    assert "AbsRel" not in result.stderr, "the metrics of untrained weights mean nothing"
    assert not list(tmp_path.iterdir())


FLOAT32 = Metrics(abs_rel=0.12, rmse=0.4, delta1=0.85, delta2=0.98, delta3=0.99)


def judged(trained: bool, change: float = 0.0, **moved: float) -> QuantisedResult:
    """A result with these metrics moved, and every depth changed by so much."""
    depth = np.full(64, 2.0)
    metrics = replace(FLOAT32, **{name: getattr(FLOAT32, name) + by for name, by in moved.items()})
    case = Case({}, 1, 64, 0.1, 0.01, Worst(0, 0, 0, 2, 2))
    exact, found = RoomDepths(FLOAT32, depth), RoomDepths(metrics, depth * (1 + change))
    return QuantisedResult("int8", TOLERANCES["int8"], (case,), exact, found, trained)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("name", "inside", "beyond"),
    [("abs_rel", 0.9e-3, 1.1e-3), *((f"delta{n}", 0.49e-2, 0.51e-2) for n in (1, 2, 3))],
)
def test_trained_weights_are_held_to_the_metrics(name: str, inside: float, beyond: float, sign: int) -> None:
    assert judged(True, **{name: sign * inside}).passed
    assert not judged(True, **{name: sign * beyond}).passed
    assert judged(False, **{name: sign * beyond}).passed, "they mean nothing"
    line = judged(True, **{name: sign * beyond}).difference
    assert (f"AbsRel moves by {sign * beyond:+.2g}" if name == "abs_rel" else f"{sign * 0.51:+.2f} points") in line


@pytest.mark.parametrize("trained", [True, False])
def test_all_are_held_to_the_change_of_a_depth(trained: bool) -> None:
    assert judged(trained, 0.0199).passed
    assert judged(trained, -0.0199).passed
    assert not judged(trained, 0.0201).passed
    assert not judged(trained, -0.0201).passed
    assert not judged(trained, float("nan")).passed
    assert "a depth changes by 2.01% on average" in judged(trained, 0.0201).difference
