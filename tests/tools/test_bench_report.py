"""Reports of made-up measurements: JSON and Markdown."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from bench_support import ABOUT, measured, report

from tools.bench.measure import Skipped
from tools.bench.report import FAULTS, count_text, number, spread_text
from tools.bench.rows import Row
from tools.bench.spread import Spread

SPD = measured("spd/onnxruntime-cpu", [100.0, 110.0, 90.0], {1: [1.0] * 3, 256: [25.6] * 3, 1024: [102.4] * 3})
LITERAL = measured("literal/onnxruntime-cpu", [100.0] * 3, {1: [2.0] * 3, 256: [80.0] * 3, 1024: [320.0] * 3})
DENSE = measured("dav2s/onnxruntime-cpu", [150.0, 160.0, 140.0])
LIMIT = measured("matmul/onnxruntime-cpu", [50.0] * 3)
SKIPPED = Skipped("spd/openvino", "480x640", "openvino | is missing")

RESULTS = (
    "encoder: spd/onnxruntime-cpu / its products at the matrix rate",
    "a point more, K = 256 to 1024: best CPU path / its products at the matrix rate",
    "decoder, K = 1024: spd/onnxruntime-cpu / literal/onnxruntime-cpu",
    "T(256): spd/onnxruntime-cpu / dav2s/onnxruntime-cpu",
)
ROW = {
    "name": str, "backend": str, "size": str, "part": str, "K": int, "median_ms": float, "p10_ms": float,
    "precision": str, "p90_ms": float, "gmac": float, "peak_mb": float, "scene_mb": float, "rounds_ms": list,
}  # fmt: skip


def document() -> dict[str, Any]:
    made = report(LIMIT, SPD, LITERAL, DENSE, skipped=(SKIPPED,), notes=("a note",))
    loaded: dict[str, Any] = json.loads(json.dumps(made.as_dict(), allow_nan=False))
    return loaded


def test_json_has_what_was_promised() -> None:
    loaded = document()
    assert (loaded["format"], loaded["format_version"]) == ("spd-bench", 2)
    assert {"machine", "versions", "date", "command", "notes", "skipped"} <= loaded.keys()
    for name in RESULTS:
        assert {"median", "p10", "p90", "text", "wanted", "above"} <= loaded["ratios"][name]["480x640"].keys()
    for row in loaded["rows"]:
        for key, kind in ROW.items():
            assert isinstance(row[key], kind), (key, row)
        assert row["p10_ms"] <= row["median_ms"] <= row["p90_ms"]
    assert loaded["skipped"] == [{"row": "spd/openvino", "size": "480x640", "reason": "openvino | is missing"}]


def test_rows_by_hand() -> None:
    rows = {(row["name"], row["part"], row["K"]): row for row in document()["rows"]}
    assert len(rows) == 1 + 7 + 7 + 1
    assert rows["spd", "encode", 0]["gmac"] == 2.0
    assert rows["spd", "encode", 0]["matmul_share"]["median"] == pytest.approx(0.5)
    assert rows["spd", "decode", 256]["median_ms"] == 25.6
    assert rows["spd", "decode", 256]["gmac"] == pytest.approx(2.56)
    total = rows["spd", "total", 256]
    assert (total["median_ms"], total["gmac"]) == (pytest.approx(125.6), pytest.approx(4.56))
    assert total["p10_ms"] == pytest.approx(90 + 0.2 * 10 + 25.6)
    assert rows["dav2s", "dense", 0]["rounds_ms"] == [150.0, 160.0, 140.0]
    assert rows["matmul", "product", 0]["matmul_share"]["median"] == 1


def test_never_is_null_in_json() -> None:
    free = measured("spd/onnxruntime-cpu", [100.0], {1: [1.0], 256: [1.0]})
    made = report(free, measured("dav2s/onnxruntime-cpu", [500.0])).as_dict()["break_even_k"]["480x640"]
    found = made["dav2s/onnxruntime-cpu"]["spd/onnxruntime-cpu"]
    assert (found["median"], found["text"]) == (None, "never (never–never)")
    json.dumps(found, allow_nan=False)


def test_markdown() -> None:
    text = report(LIMIT, SPD, LITERAL, DENSE, skipped=(SKIPPED,), notes=("a note",)).markdown()
    assert "| spd/onnxruntime-cpu | 480x640 | 100 (92.0–108) | 101 (93.0–109) | 126 (118–134) |" in text
    encoder = "encoder: spd/onnxruntime-cpu / its products at the matrix rate"
    assert f"| {encoder} | 480x640 | 2.00 (1.84–2.16) | at most 1.25: missed |" in text
    assert "| T(256): best CPU path / dav2s/onnxruntime-cpu (it is spd/onnxruntime-cpu) | 480x640 | 0.837 (" in text
    assert "## K from which a dense network is faster, 480x640" in text
    assert "| dav2s/onnxruntime-cpu | 500 (500–500) | 158 (" in text
    assert all(f"- {fault}" in text.partition("## How it was measured")[2] for fault in FAULTS)
    assert "taken by others meanwhile: 1.0% of the processor" in text
    assert "| spd/openvino | 480x640 | openvino \\| is missing |" in text
    assert "- a note" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") - line.count("\\|") for line in lines} == {5, 12, 4}, "all lines of a table are as long"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.012345, "0.0123"), (0.5, "0.500"), (1.0, "1.00"), (12.345, "12.3"), (123.4, "123"), (999.6, "1000"),
     (1234.5, "1,234"), (math.inf, "never")],
)  # fmt: skip
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text
    assert spread_text(Spread(value, value, value, 1)) == f"{text} ({text}–{text})"


def test_points_are_whole() -> None:
    assert spread_text(Spread(88.4, 0.1, math.inf, 3), count_text) == "88 (0–never)"
    assert count_text(5330.2) == "5,330"


def test_rows_know_their_device() -> None:
    assert ABOUT["rounds"] == 3
    assert Row("spd", "tensorrt").limit == Row("literal", "torch-cuda").limit == Row("matmul", "onnxruntime-cuda")
    assert Row("spd", "openvino").limit == Row("matmul", "onnxruntime-cpu")
