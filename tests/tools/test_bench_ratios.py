"""The results of made-up turns, by hand."""

from __future__ import annotations

import pytest
from bench_support import measured

from spd.config import PRESETS
from tools.bench.measure import Measured
from tools.bench.ratios import BEST, COMPARISONS, Ratio, best_cpu_path, break_evens, ratios
from tools.bench.rows import ROWS, Row
from tools.bench.spread import Spread

SPD = measured("spd/onnxruntime-cpu", [100.0, 200.0, 100.0], {256: [20.0, 40.0, 20.0], 1024: [80.0, 160.0, 80.0]})
OPENVINO = measured("spd/openvino", [125.0, 250.0, 125.0], {256: [40.0, 40.0, 40.0], 1024: [90.0, 90.0, 90.0]})
LITERAL = measured("literal/onnxruntime-cpu", [100.0] * 3, {256: [80.0] * 3, 1024: [240.0, 480.0, 320.0]})
DENSE = measured("dav2s/onnxruntime-cpu", [240.0, 480.0, 160.0])
LIMIT = measured("matmul/onnxruntime-cpu", [50.0, 100.0, 50.0])  # 2 GMAC in 50 ms


def ratios_of(*rows: Measured, preset: str | None = None, size: tuple[int, int] = (480, 640)) -> dict[str, Ratio]:
    return ratios({str(one.row): one for one in rows}, preset, size)


def test_encoder_over_openvino() -> None:
    found = ratios_of(SPD, OPENVINO)
    assert found["encoder: spd/onnxruntime-cpu / spd/openvino"].spread == Spread(0.8, 0.8, 0.8, 3)


def test_the_matrix_rate_does_not_see_the_slow_round() -> None:
    # The same work in twice the time of the limit, in each round.
    found = ratios_of(SPD, LIMIT)["encoder: spd/onnxruntime-cpu / its products at the matrix rate"]
    assert found.spread == Spread(2.0, 2.0, 2.0, 3)


def test_deployed_over_literal() -> None:
    # A third, a third and a fourth.
    spread = ratios_of(SPD, LITERAL)["decoder, K = 1024: spd/onnxruntime-cpu / literal/onnxruntime-cpu"].spread
    assert (spread.median, spread.p90) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert spread.p10 == pytest.approx(1 / 4 + 0.2 * (1 / 3 - 1 / 4))


def test_a_further_point_over_its_products() -> None:
    # 60 ms for 768 points more, which are 7.68 GMAC: 192 ms at 2 GMAC in 50 ms.
    name = "a point more, K = 256 to 1024: spd/onnxruntime-cpu / its products at the matrix rate"
    spread = ratios_of(SPD, LIMIT)[name].spread
    assert spread.median == pytest.approx(60 / 192)
    assert spread.p10 == pytest.approx(spread.p90)


def test_total_over_the_dense_network() -> None:
    # 120 of 240, 240 of 480, 120 of 160.
    found = ratios_of(SPD, DENSE)["T(256): spd/onnxruntime-cpu / dav2s/onnxruntime-cpu"]
    assert found.spread == pytest.approx(Spread(0.5, 0.5, 0.7, 3))


def test_the_best_cpu_path_has_the_least_total() -> None:
    eight = measured("spd/openvino:int8", [60.0, 120.0, 60.0], {256: [30.0, 60.0, 30.0]})
    fast_encoder = measured("spd/openvino:bf16", [50.0, 100.0, 50.0], {256: [50.0, 100.0, 50.0]})
    gpu = measured("spd/tensorrt", [1.0] * 3, {256: [1.0] * 3})
    found = ratios_of(SPD, OPENVINO, fast_encoder, eight, gpu, DENSE)
    best = found[f"T(256): {BEST} / dav2s/onnxruntime-cpu"]
    assert best.above == "spd/openvino:int8"
    assert best.spread == pytest.approx(Spread(90 / 240, 90 / 240, 90 / 240 + 0.8 * (90 / 160 - 90 / 240), 3))
    assert found[f"T(256): {BEST} / spd/onnxruntime-cpu"].spread.median == pytest.approx(0.75)
    assert best_cpu_path({"spd/tensorrt": gpu, "dav2s/onnxruntime-cpu": DENSE}) == ""


def test_yolo_is_held_to_the_same_runtime() -> None:
    spd = measured("spd/openvino:bf16", [30.0] * 3, {64: [4.0] * 3, 256: [15.0] * 3})
    rows = (measured(f"yolo26{scale}/openvino:bf16", [ms] * 3) for scale, ms in (("n", 40.0), ("m", 90.0)))
    found = ratios_of(spd, SPD, *rows, preset="atto")
    small, large = (found[f"{what}/openvino:bf16"] for what in (
        "T(64): spd/openvino:bf16 / yolo26n", "T(256): spd/openvino:bf16 / yolo26m",
    ))  # fmt: skip
    assert (small.spread.median, small.wanted) == (pytest.approx(34 / 40), "at most 0.85")
    assert (large.spread.median, large.wanted) == (pytest.approx(0.5), ""), "wanted of tiny"
    assert not [name for name in found if "yolo26" in name and "onnxruntime" in name]


def test_what_is_wanted_depends_on_the_preset_and_the_size() -> None:
    name = "encoder: spd/onnxruntime-cpu / its products at the matrix rate"
    assert ratios_of(SPD, LIMIT, preset="tiny")[name].wanted == "at most 1.25: missed"
    assert ratios_of(SPD, LIMIT, preset="atto")[name].wanted == ""
    assert ratios_of(SPD, LIMIT, preset="tiny", size=(256, 320))[name].wanted == ""


def test_only_what_was_measured_is_compared() -> None:
    assert ratios_of(SPD) == {"T(256): best CPU path / spd/onnxruntime-cpu": Ratio(
        "spd/onnxruntime-cpu", Spread(1.0, 1.0, 1.0, 3), None
    )}  # fmt: skip
    few = measured("spd/onnxruntime-cpu", [100.0] * 3, {1: [1.0] * 3, 256: [20.0] * 3})
    assert not [name for name in ratios_of(few, LIMIT, LITERAL) if "1024" in name]


def test_comparisons_are_of_rows_and_presets_that_exist() -> None:
    rows = {*map(str, ROWS), *(str(row.limit) for row in ROWS)}
    assert {one.below for one in COMPARISONS} | {one.above for one in COMPARISONS} - {BEST} <= rows
    assert {preset for one in COMPARISONS for preset in one.most} <= {*PRESETS}
    assert len({one.name for one in COMPARISONS}) == len(COMPARISONS)
    assert all(Row(*one.above.split("/")).on_gpu == Row(*one.below.split("/")).on_gpu
               for one in COMPARISONS if one.above != BEST)  # fmt: skip


def test_break_even() -> None:
    # 240 = 100 + 140: beyond K = 1024 (80) at 60 / 768 a point are 768 points more.
    # The second round is twice as slow throughout. In the third 60 are left: half way and more from 20 to 80.
    found = break_evens(SPD.turns, DENSE.turns[0])
    assert found.median == pytest.approx(1792)
    assert found.p10 == pytest.approx(768 + 0.2 * (1792 - 768))
