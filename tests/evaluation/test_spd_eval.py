"""The command `spd-eval`, with data and a runtime whose depths are known."""

import csv
import json
import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from evaluation_support import F64, Lookup, StubModel, constant, pair
from PIL import Image

from spd.commands import progress
from spd.commands.evaluate import main
from spd.errors import DataError


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def notes(result: Result) -> list[str]:
    """What stderr says besides the progress."""
    return [line for line in result.stderr.splitlines() if not re.match(r" +\d+\.\d s  (loading|evaluating)", line)]


def result_of(*arguments: str) -> dict[str, Any]:
    result = run("model.pt", "--data", "rooms", "--out", "out.json", *arguments)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(Path("out.json").read_text())
    return found


def test_table_and_json(model: StubModel) -> None:
    result = run("model.pt", "--data", "rooms", "--out", "out.json")
    assert result.exit_code == 0
    assert notes(result) == []
    lines = result.stdout.splitlines()
    assert lines[0] == "the-bundle 160x192 fp16 on stub"
    assert lines[-1] == "some data, test: 2 images, seed 0; dense: up to 4,096 random valid pixels per image"
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if line.startswith("│")]
    labels = ("1", "64", "256", "1024", "dense: 4,096")
    assert rows == [[k, "0.2500", "0.7500", "0.00%", "100.00%", "100.00%"] for k in labels]
    found = json.loads(Path("out.json").read_text())
    assert found["by_k"]["64"] == pytest.approx({"abs_rel": 0.25, "rmse": 0.75, "delta1": 0, "delta2": 1, "delta3": 1})
    expected = {"model": "the-bundle", "weights_sha256": "ab12", "backend": "stub", "precision": "fp16"}
    expected |= {"data": "some data, test", "size": "160x192"}
    assert {key: found[key] for key in expected} == expected
    numbers = {"images": 2, "skipped": 0, "seed": 0, "cropped": 0, "not_finite": 0}
    assert {key: found[key] for key in numbers} == numbers
    assert model.opened == [
        ("rooms", "test"),
        {"path": "model.pt", "backend": "auto", "precision": None, "size": None, "weights": "auto", "threads": None},
        "closed",
    ]


def test_csv(model: StubModel) -> None:
    assert run("model.pt", "--data", "rooms", "--out", "out.CSV", "--k", "8,2", "--no-dense").exit_code == 0
    rows = list(csv.DictReader(Path("out.CSV").read_text().splitlines()))
    assert [row["k"] for row in rows] == ["2", "8"]
    assert [float(row["rmse"]) for row in rows] == [0.75, 0.75]
    assert rows[0]["model"] == "the-bundle"


def test_options_arrive(model: StubModel) -> None:
    options = "--k 16 --dense-points 5 --seed 9 --images 1 --size 96x320 --backend torch --precision fp32 --threads 2"
    found = result_of(*options.split())
    assert list(found["by_k"]) == ["16", "dense"]
    assert (found["images"], found["seed"], found["dense_points"]) == (1, 9, 5)
    assert [len(points) for _, points in model.asked] == [16, 5]
    given = {"backend": "torch", "precision": "fp32", "size": (96, 320), "weights": "auto", "threads": 2}
    assert model.opened[1] == {"path": "model.pt", **given}


@pytest.mark.parametrize(
    ("option", "asked", "label"),
    [
        ((), 4096, "dense: 4,096"),
        (("--dense-points", "100"), 100, "dense: 100"),
        (("--dense-points", "all"), 5400, "dense: all valid pixels"),
    ],
)
def test_the_dense_row_is_of_the_pixels_that_it_says(
    option: tuple[str, ...], asked: int, label: str, model: StubModel
) -> None:
    depth = np.linspace(0.5, 9.5, 90 * 80, dtype=np.float32).reshape(90, 80)
    depth[:, ::4] = 0  # leaves 5,400
    model.pairs.items = [pair(depth), pair(depth.T.copy(), mark=1)]
    model.change = lambda depth: depth + np.sin(7 * depth)
    result = run("model.pt", "--data", "rooms", "--k", "1", "--out", "out.json", *option)
    assert label in result.stdout
    found = json.loads(Path("out.json").read_text())
    assert found["dense_points"] == (None if asked == 5400 else asked)
    errors = []
    for number, points in model.asked:
        if len(points) > 1:
            assert len(np.unique(points, axis=0)) == len(points) == asked
            column, row = (points - 0.5).astype(int).T
            truth = model.pairs[number].depth[row, column].astype(np.float64)
            assert (truth > 0).all()
            errors.append(np.mean(np.abs(np.clip(truth + np.sin(7 * truth), 1e-3, 10) - truth) / truth))
    assert len(errors) == 2
    assert found["by_k"]["dense"]["abs_rel"] == pytest.approx(np.mean(errors), rel=1e-6)


def test_an_image_with_fewer_valid_pixels_is_asked_all_of_them_once(model: StubModel) -> None:
    result_of("--k", "1")
    assert [len(np.unique(points, axis=0)) for _, points in model.asked] == [1, 30 * 40] * 2


def test_progress_where_there_is_no_terminal(model: StubModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.02)

    def change(depth: F64) -> F64:
        time.sleep(0.1)
        return depth

    model.change = change
    result = run("model.pt", "--data", "rooms", "--k", "1", "--no-dense")
    lines = result.stderr.splitlines()
    assert notes(result) == []
    assert lines[0].endswith("  loading model.pt")
    assert any(line.endswith("evaluating: 0 s, 0 of 2 images") for line in lines)
    assert any(re.search(r"1 of 2 images, [\d.]+ a second, about 0 s left$", line) for line in lines)


def test_seeds_and_repetitions(model: StubModel) -> None:
    asked = []
    for seed in ("1", "1", "2"):
        result_of("--k", "16", "--no-dense", "--seed", seed)
        asked.append([points.tolist() for _, points in model.asked])
        model.asked.clear()
    assert asked[0] == asked[1] != asked[2]


def test_median_scale(model: StubModel) -> None:
    found = result_of("--median-scale")
    assert found["median_scale"]
    assert found["by_k"]["1"]["abs_rel"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("data", "cropped"), [("rooms", 0), ("nyu", 1)])
def test_only_data_on_disk_is_cropped(model: StubModel, data: str, cropped: int) -> None:
    model.pairs = constant(2, size=(480, 640))
    result = run("model.pt", "--data", data, "--k", "4096", "--no-dense", "--out", "out.json")
    assert result.exit_code == 0
    assert json.loads(Path("out.json").read_text())["cropped"] == cropped
    assert ((model.asked[0][1][:, 1] > 471).any()) == (not cropped)


def test_rooms_are_a_hundred_by_default(model: StubModel) -> None:
    model.pairs = constant(*[2.0] * 105, size=(4, 4))
    assert result_of("--k", "1", "--no-dense")["images"] == 100
    assert result_of("--k", "1", "--no-dense", "--images", "104")["images"] == 104
    assert run("model.pt", "--data", "nyu", "--k", "1", "--no-dense", "--out", "out.json").exit_code == 0
    assert json.loads(Path("out.json").read_text())["images"] == 105


def test_broken_pairs_are_named_and_counted(model: StubModel) -> None:
    model.pairs.items = [*model.pairs.items, *(DataError(f"{i}.png is damaged") for i in range(5))]
    result = run("model.pt", "--data", "rooms", "--out", "out.json")
    assert result.exit_code == 0
    assert notes(result) == [
        "Skipped 5 that could not be used: 0.png is damaged; 1.png is damaged; 2.png is damaged; and 2 more."
    ]
    assert "2 images, seed 0; 5 skipped" in result.stdout
    found = json.loads(Path("out.json").read_text())
    assert (found["images"], found["skipped"]) == (2, 5)


def test_no_pair_left(model: StubModel) -> None:
    model.pairs.items = [DataError("0.png is damaged")]
    result = run("model.pt", "--data", "rooms", "--out", "out.json")
    assert result.exit_code == 1
    assert notes(result) == ["Error: none of the 1 pairs of some data, test can be used; the first: 0.png is damaged"]
    assert not Path("out.json").exists()


def test_nan_is_mentioned(model: StubModel) -> None:
    model.change = lambda depth: np.full_like(depth, np.nan)
    result = run("model.pt", "--data", "rooms", "--k", "8", "--no-dense")
    assert notes(result) == ["16 predictions were NaN or infinite; NaN counted as the lowest depth."]


def test_untrained_weights_are_mentioned(model: StubModel) -> None:
    model.manifest = SimpleNamespace(name="x", weights_sha256="y", trained=False)
    assert "are random, not trained" in run("model.pt", "--data", "rooms").stderr


def test_pictures(model: StubModel) -> None:
    model.pairs = constant(2, 3, 4)
    model.pairs.items = [model.pairs.items[0], DataError("gone"), model.pairs.items[2]]
    assert run("model.pt", "--data", "rooms", "--pictures", "new").exit_code == 0
    assert sorted(path.name for path in Path("new").iterdir()) == ["00000.png", "00002.png"]
    with Image.open("new/00002.png") as picture:
        assert picture.format == "PNG"
    assert run("model.pt", "--data", "rooms", "--pictures", "new").exit_code == 0  # into the same folder again


class StubBaseline(Lookup):
    """Depth Anything, told where it is loaded from."""

    relative = False
    loaded_from: str

    def load(self, source: str) -> "StubBaseline":
        self.loaded_from = source
        return self


@pytest.fixture
def baseline(model: StubModel, monkeypatch: pytest.MonkeyPatch) -> StubBaseline:
    stub = StubBaseline(model.pairs, lambda depth: 2 * depth)
    monkeypatch.setattr("spd.baselines.depth_anything.load_depth_anything", stub.load)
    return stub


def test_a_baseline(model: StubModel, baseline: StubBaseline) -> None:
    result = run("some/Small-hf", "--baseline", "depth-anything", "--data", "rooms", "--out", "out.json")
    assert result.exit_code == 0
    assert baseline.loaded_from == "some/Small-hf"
    found = json.loads(Path("out.json").read_text())
    assert (found["model"], found["backend"], found["size"]) == ("Small-hf", "depth-anything", None)
    assert found["by_k"]["dense"]["abs_rel"] == 1
    assert model.opened == [("rooms", "test")]


def test_relative_depth_needs_a_scale(baseline: StubBaseline) -> None:
    baseline.relative = True
    arguments = ("some/Small-hf", "--baseline", "depth-anything", "--data", "rooms", "--out", "out.json")
    result = run(*arguments)
    assert (result.exit_code, "add --median-scale" in result.stderr) == (2, True)
    assert run(*arguments, "--median-scale").exit_code == 0
    assert json.loads(Path("out.json").read_text())["by_k"]["1"]["abs_rel"] == 0
