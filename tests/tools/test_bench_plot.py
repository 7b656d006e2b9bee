"""The picture of a benchmark: curves, break-evens and labels."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_support import measured, report
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from PIL import Image
from plot_support import cut_off, overlaps

from tools.bench.measure import Measured
from tools.bench.plot import crossings, draw, main, spread, times_at
from tools.bench.rows import ROWS

SPD = measured("spd/onnxruntime-cpu", [100.0, 110.0, 90.0], {1: [1.0] * 3, 256: [25.6] * 3, 1024: [102.4] * 3})
LITERAL = measured("literal/onnxruntime-cpu", [100.0] * 3, {1: [2.0] * 3, 256: [80.0] * 3, 1024: [320.0] * 3})
DENSE = measured("dav2s/onnxruntime-cpu", [150.0, 160.0, 140.0])
LIMIT = measured("matmul/onnxruntime-cpu", [50.0] * 3)
SMALL = (
    measured("spd/onnxruntime-cpu", [50.0] * 3, {1: [1.0] * 3, 256: [25.6] * 3}, (256, 320)),
    measured("dav2s/onnxruntime-cpu", [70.0] * 3, size=(256, 320)),
)
DOCS = Path(__file__).parents[2] / "docs" / "bench.json"


def document(*rows: Measured) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(json.dumps(report(*rows).as_dict()))
    return loaded


def rings(axes: Axes) -> list[tuple[float, float]]:
    found = [line.get_xydata()[0] for line in axes.lines if line.get_markersize() == 9 and len(line.get_xdata())]
    return [(float(k), float(ms)) for k, ms in found]


def test_curves_are_linear_in_k_also_beyond_the_last() -> None:
    counts = np.array([1, 2, 100, 256, 1024, 5000])
    assert times_at({1: 101.0, 256: 356.0, 1024: 1124.0}, counts) == pytest.approx(100 + counts)
    assert times_at({0: 150.0}, counts) == pytest.approx([150.0] * 6)


def test_break_evens_by_hand() -> None:
    # The medians cost 100 + 0.1 K and 100 + 80 / 256 K; the rounds pair 100 with 150, 110 with 160, 90 with 140.
    other = measured("dav2s/openvino", [120.0] * 3)
    found = crossings(document(LIMIT, SPD, LITERAL, DENSE, other), "480x640")
    assert found == [
        ("literal/onnxruntime-cpu", pytest.approx(2 + 254 * 48 / 78 - 1, rel=0.01), 150),
        ("spd/onnxruntime-cpu", pytest.approx(500), 150),
    ], "in the order of K, against dense networks on the same runtime"


def test_no_break_even_at_once_or_never() -> None:
    slow = measured("spd/onnxruntime-cpu", [100.0], {1: [1.0]})
    assert crossings(document(slow, measured("dav2s/onnxruntime-cpu", [50.0])), "480x640") == []
    free = measured("spd/onnxruntime-cpu", [100.0], {1: [1.0], 2: [1.0]})
    assert crossings(document(free, measured("dav2s/onnxruntime-cpu", [500.0])), "480x640") == []


def test_a_panel_for_each_size_with_its_curves_and_break_even() -> None:
    made = draw(document(LIMIT, *SMALL, SPD, DENSE))
    small, large = made.axes
    assert [axes.get_title() for axes in made.axes] == ["tiny, 256 x 320 pixels", "tiny, 480 x 640 pixels"]
    assert rings(large) == [(pytest.approx(500), 150)]
    assert rings(small) == [(pytest.approx(1 + 255 * (70 - 51) / (75.6 - 51)), 70)]
    assert [text.get_text() for text in large.texts] == ["500"]
    dots = [
        line.get_xydata().tolist() for line in large.lines if line.get_marker() == "o" and line.get_markersize() == 4
    ]
    assert dots == [[[1, 101], [256, pytest.approx(125.6)], [1024, pytest.approx(202.4)]], []]
    labels = [text.get_text() for text in made.legends[0].get_texts()]
    assert labels == [
        "SPD as deployed, onnxruntime-cpu",
        "Depth Anything V2 Small, onnxruntime-cpu",
        "K from which the dense network is faster",
    ]
    assert large.get_xlabel() == "K, points of an image"
    assert small.get_ylabel().endswith("[ms]")


def test_a_dense_row_alone() -> None:
    (axes,) = draw(document(DENSE)).axes
    assert axes.lines[0].get_ydata() == pytest.approx(150)
    assert rings(axes) == []


def test_labels_of_the_measured_benchmark_do_not_collide_and_are_whole_numbers() -> None:
    made = draw(json.loads(DOCS.read_text()))
    assert overlaps(made) == []
    assert cut_off(made) == []
    assert [[text.get_text() for text in axes.texts] for axes in made.axes] == [
        ["49", "88", "524"], ["1,144", "2,359", "5,330"]
    ]  # fmt: skip
    for axes in made.axes:
        made.draw_without_rendering()
        ticks = [label.get_text() for label in axes.get_xticklabels()]
        assert ticks == ["1", "4", "16", "64", "256", "1,024", "4,096"]


@pytest.mark.parametrize("count", [499, 500, 520])
def test_break_evens_that_nearly_coincide_have_labels_apart(count: int) -> None:
    rows = [SPD, DENSE, measured("dav2s/openvino", [100 + count / 10] * 3)]
    rows.append(measured("spd/openvino", [100.0] * 3, {1: [0.1] * 3, 1024: [102.4] * 3}))
    made = draw(document(*rows))
    assert sorted(text.get_text() for text in made.axes[0].texts) == sorted([str(count), "500"])
    assert overlaps(made) == []
    assert cut_off(made) == []


def test_all_rows_in_one_picture() -> None:
    rows = []
    for i, row in enumerate(row for row in ROWS if not row.on_gpu):
        for height, size in ((0.5, (256, 320)), (1.0, (480, 640))):
            dense = row.network not in ("spd", "literal")
            encode = height * (100.0 + 7 * i + 60 * dense)
            rows.append(measured(str(row), [encode] * 3, {} if dense else {1: [1.0] * 3, 1024: [90.0 + i] * 3}, size))
    made = draw(document(*rows))
    for axes in made.axes:
        curves = [line for line in axes.lines if line.get_label().startswith(("SPD", "Depth", "YOLO"))]
        looks = {(line.get_color(), str(line._dash_pattern), line.get_linestyle()) for line in curves}
        assert len(looks) == len(curves) == len(rows) / 2
        assert len(axes.texts) == len(rings(axes)) > 10
    assert overlaps(made) == []
    assert cut_off(made) == []


@given(st.lists(st.floats(0, 500), max_size=12).map(sorted))
def test_labels_stay_apart_in_order_and_inside(wanted: list[float]) -> None:
    placed = spread(wanted, 24, 0, 500)
    assert len(placed) == len(wanted)
    assert all(b - a >= 24 - 1e-9 for a, b in itertools.pairwise(placed))
    assert all(0 <= y <= 500 for y in placed)


def test_labels_that_do_not_collide_stay_where_they_are() -> None:
    assert spread([10.0, 100.0, 300.0], 24, 0, 500) == [10.0, 100.0, 300.0]


def test_it_draws_what_was_written_before(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, [str(DOCS), str(tmp_path / "bench.png")])
    assert (done.exit_code, done.output) == (0, "")
    with Image.open(tmp_path / "bench.png") as picture:
        assert picture.format == "PNG"
