"""Reports of made-up measurements: JSON, Markdown and the picture."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from bench_support import ABOUT, measured, report

from tools.bench.measure import Skipped
from tools.bench.plot import LEFT, PANEL_WIDTH, SCALE, Axes, axes, bent, draw, marks
from tools.bench.report import number, spread_text
from tools.bench.rows import Row
from tools.bench.spread import Spread

SPD = measured("spd/onnxruntime-cpu", [100.0, 110.0, 90.0], {1: [1.0] * 3, 256: [25.6] * 3, 1024: [102.4] * 3})
LITERAL = measured("literal/onnxruntime-cpu", [100.0] * 3, {1: [2.0] * 3, 256: [80.0] * 3, 1024: [320.0] * 3})
DENSE = measured("dav2s/onnxruntime-cpu", [150.0, 160.0, 140.0])
LIMIT = measured("matmul/onnxruntime-cpu", [50.0] * 3)
SKIPPED = Skipped("spd/openvino", "480x640", "openvino | is missing")

RESULTS = (
    "encoder_over_openvino", "encoder_share_of_matmul_rate", "literal_over_deployed_k1024", "slope_over_matmul_limit",
    "total_k256_over_dav2s", "break_even_k",
)  # fmt: skip
ROW = {
    "name": str, "backend": str, "size": str, "part": str, "K": int, "median_ms": float, "p10_ms": float,
    "p90_ms": float, "gmac": float, "peak_mb": float, "scene_mb": float, "rounds_ms": list,
}  # fmt: skip


def document() -> dict[str, Any]:
    made = report(LIMIT, SPD, LITERAL, DENSE, skipped=(SKIPPED,), notes=("a note",))
    loaded: dict[str, Any] = json.loads(json.dumps(made.as_dict(), allow_nan=False))
    return loaded


def test_json_has_what_was_promised() -> None:
    loaded = document()
    assert (loaded["format"], loaded["format_version"]) == ("spd-bench", 1)
    assert {"machine", "versions", "date", "command", "notes", "skipped"} <= loaded.keys()
    for name in RESULTS:
        assert {"median", "p10", "p90", "text", "meaning"} <= loaded["ratios"][name]["480x640"].keys()
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
    found = report(free, measured("dav2s/onnxruntime-cpu", [500.0])).as_dict()["ratios"]["break_even_k"]["480x640"]
    assert (found["median"], found["text"]) == (None, "never (never–never)")
    json.dumps(found, allow_nan=False)


def test_markdown() -> None:
    text = report(LIMIT, SPD, DENSE, skipped=(SKIPPED,), notes=("a note",)).markdown()
    assert "| spd/onnxruntime-cpu | 480x640 | 100 (92.0–108) | 101 (93.0–109) | 126 (118–134) |" in text
    assert "| break_even_k | 480x640 | 500 (500–500) |" in text
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


def test_the_axes_are_logarithmic() -> None:
    panel = Axes(LEFT, (1, 4096), (10, 1000))
    assert panel.x(64) == pytest.approx((panel.x(1) + panel.x(4096)) / 2)
    assert panel.y(100) == pytest.approx((panel.y(10) + panel.y(1000)) / 2)
    assert panel.y(1000) < panel.y(10)


def test_curves_are_linear_in_k() -> None:
    places = bent([(1, 101.0), (256, 356.0)])
    assert len(places) > 10
    assert all(ms == pytest.approx(100 + count) for count, ms in places)


def test_marks_by_hand() -> None:
    rows = {one.row: one for one in (SPD, LITERAL, DENSE)}
    found = {mark.row: mark for mark in marks(rows)}
    # The medians cost 100 + 0.1 K and 100 + 80 / 256 K; the rounds pair 100 with 150, 110 with 160, 90 with 140.
    assert found[SPD.row].count == pytest.approx(500)
    assert found[SPD.row].ms == 150
    assert found[LITERAL.row].count == pytest.approx(2 + 254 * 48 / 78 - 1, rel=0.01)


def test_no_mark_at_once_or_never() -> None:
    slow = measured("spd/onnxruntime-cpu", [100.0], {1: [1.0]})
    assert marks({one.row: one for one in (slow, measured("dav2s/onnxruntime-cpu", [50.0]))}) == []
    free = measured("spd/onnxruntime-cpu", [100.0], {1: [1.0], 2: [1.0]})
    assert marks({one.row: one for one in (free, measured("dav2s/onnxruntime-cpu", [500.0]))}) == []


def test_the_picture_has_the_marks() -> None:
    small = measured("spd/onnxruntime-cpu", [50.0] * 3, {1: [1.0] * 3, 256: [25.6] * 3, 1024: [102.4] * 3}, (256, 320))
    dense = measured("dav2s/onnxruntime-cpu", [70.0] * 3, size=(256, 320))
    made = report(small, dense, SPD, DENSE)
    picture = draw(made)
    assert picture.width == 2 * PANEL_WIDTH // SCALE
    colours = set()
    for i, size in enumerate(made.sizes()):
        rows = made.of_size(*size)
        panel = axes(rows, made.counts, i * PANEL_WIDTH + LEFT)
        (mark,) = marks(rows)
        x, y = round(panel.x(mark.count) / SCALE), round(panel.y(mark.ms) / SCALE)
        colours.add(picture.getpixel((x, y)))
        around = {picture.getpixel((x + dx, y)) for dx in range(-10, 11)}
        assert any(min(pixel) > 200 for pixel in around), "a light ring"
    assert colours == {(102, 153, 204)}, "both marks have the row's colour"


def test_a_picture_of_one_dense_row() -> None:
    assert draw(report(DENSE)).width == PANEL_WIDTH // SCALE


def test_rows_know_their_device() -> None:
    assert ABOUT["rounds"] == 3
    assert Row("spd", "tensorrt").limit == Row("literal", "torch-cuda").limit == Row("matmul", "onnxruntime-cuda")
    assert Row("spd", "openvino").limit == Row("matmul", "onnxruntime-cpu")
