"""What an evaluation is written as."""

import csv
import io
import json

import pytest
from rich.console import Console

from spd.evaluation.protocol import Evaluation, Settings
from spd.evaluation.report import Subject, document, facts, table, title, to_csv, to_json
from spd.utils.metrics import Metrics
from spd.version import __version__

EVALUATION = Evaluation(
    {"1": Metrics(0.5, 1.25, 0.25, 0.5, 1), "dense": Metrics(1 / 3, 0.1, 0.98765, 1, 1)}, 7, ("a", "b"), 3, 4
)
SUBJECT = Subject("atto-160x192", "ab12", "onnxruntime-cpu", "fp16", "160x192")
FOUND = document(EVALUATION, Settings((1,), seed=5), SUBJECT, 'nyu "D", test')


def test_json() -> None:
    assert json.loads(to_json(FOUND)) == {
        "format": "spd-eval",
        "format_version": 1,
        "version": __version__,
        "model": "atto-160x192",
        "weights_sha256": "ab12",
        "backend": "onnxruntime-cpu",
        "precision": "fp16",
        "size": "160x192",
        "data": 'nyu "D", test',
        "images": 7,
        "skipped": 2,
        "seed": 5,
        "dense_points": None,
        "median_scale": False,
        "cropped": 3,
        "not_finite": 4,
        "by_k": {
            "1": {"abs_rel": 0.5, "rmse": 1.25, "delta1": 0.25, "delta2": 0.5, "delta3": 1},
            "dense": {"abs_rel": 1 / 3, "rmse": 0.1, "delta1": 0.98765, "delta2": 1, "delta3": 1},
        },
    }


def test_csv_says_the_same() -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(FOUND).decode())))
    other = {key: value for key, value in json.loads(to_json(FOUND)).items() if key != "by_k"}
    for row, (label, metrics) in zip(rows, FOUND["by_k"].items(), strict=True):
        assert row.pop("k") == label
        for name, value in metrics.items():
            assert float(row.pop(name)) == value
        assert list(row) == list(other)
        assert {key: value for key, value in row.items() if key != "median_scale"} == {
            key: "" if value is None else str(value) for key, value in other.items() if key != "median_scale"
        }
        assert row["median_scale"] == "false"


def test_a_baseline_has_neither_size_nor_hash() -> None:
    found = document(EVALUATION, Settings(), Subject("small", None, "depth-anything", "fp32", None), "rooms")
    assert title(found) == "small fp32 on depth-anything"
    assert (json.loads(to_json(found))["size"], json.loads(to_json(found))["weights_sha256"]) == (None, None)


def test_the_table() -> None:
    console = Console(width=100, file=io.StringIO(), color_system=None)
    with console.capture() as capture:
        console.print(table(FOUND))
    rows = [line.strip("│").split("│") for line in capture.get().splitlines() if line.startswith("│")]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["1", "0.5000", "1.2500", "25.00%", "50.00%", "100.00%"],
        ["dense", "0.3333", "0.1000", "98.77%", "100.00%", "100.00%"],
    ]
    assert title(FOUND) == "atto-160x192 160x192 fp16 on onnxruntime-cpu"


@pytest.mark.parametrize(
    ("settings", "evaluation", "text"),
    [
        (Settings(), Evaluation({}, 1, (), 0, 0), "rooms: 1 image, seed 0"),
        (Settings(seed=3), Evaluation({}, 7, (), 7, 0), "rooms: 7 images, seed 3; Eigen crop"),
        (
            Settings(dense_points=9, median_scale=True),
            EVALUATION,
            "rooms: 7 images, seed 0; 2 skipped; Eigen crop on 3 of them; "
            "dense: up to 9 random valid pixels per image; predictions scaled to the median of the truth",
        ),
    ],
)
def test_facts(settings: Settings, evaluation: Evaluation, text: str) -> None:
    assert facts(document(evaluation, settings, SUBJECT, "rooms")) == text
