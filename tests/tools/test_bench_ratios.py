"""The results of made-up turns, by hand."""

from __future__ import annotations

import pytest
from bench_support import measured

from tools.bench.ratios import Ratio, ratios
from tools.bench.spread import Spread

SPD = measured("spd/onnxruntime-cpu", [100.0, 200.0, 100.0], {256: [20.0, 40.0, 20.0], 1024: [80.0, 160.0, 80.0]})
OPENVINO = measured("spd/openvino", [125.0, 250.0, 125.0], {256: [40.0, 40.0, 40.0], 1024: [90.0, 90.0, 90.0]})
LITERAL = measured("literal/onnxruntime-cpu", [100.0] * 3, {256: [80.0] * 3, 1024: [240.0, 480.0, 320.0]})
DENSE = measured("dav2s/onnxruntime-cpu", [240.0, 480.0, 160.0])
LIMIT = measured("matmul/onnxruntime-cpu", [50.0, 100.0, 50.0])  # 2 GMAC in 50 ms


def of(*rows: object) -> dict[str, Ratio]:
    return ratios({one.row: one for one in rows})  # type: ignore[attr-defined]


def spread_of(name: str, *rows: object) -> Spread:
    spread = of(*rows)[name].spread
    assert spread is not None
    return spread


def test_encoder_over_openvino() -> None:
    assert spread_of("encoder_over_openvino", SPD, OPENVINO) == Spread(0.8, 0.8, 0.8, 3)


def test_share_of_the_matrix_rate_does_not_see_the_slow_round() -> None:
    # The same work in twice the time of the limit, in each round.
    assert spread_of("encoder_share_of_matmul_rate", SPD, LIMIT) == Spread(0.5, 0.5, 0.5, 3)


def test_literal_over_deployed() -> None:
    # 3, 3 and 4 times.
    assert spread_of("literal_over_deployed_k1024", SPD, LITERAL) == pytest.approx(Spread(3.0, 3.0, 3.8, 3))


def test_slope_over_the_limit() -> None:
    # 60 ms for 768 points more, which are 7.68 GMAC: 192 ms at 2 GMAC in 50 ms.
    found = spread_of("slope_over_matmul_limit", SPD, LIMIT)
    assert found.median == pytest.approx(60 / 192)
    assert found.p10 == pytest.approx(found.p90)


def test_total_over_the_dense_network() -> None:
    # 120 of 240, 240 of 480, 120 of 160.
    assert spread_of("total_k256_over_dav2s", SPD, DENSE) == pytest.approx(Spread(0.5, 0.5, 0.7, 3))


def test_break_even() -> None:
    # 240 = 100 + 140: beyond K = 1024 (80) at 60 / 768 a point are 768 points more.
    # The second round is twice as slow throughout. In the third 60 are left: half way and more from 20 to 80.
    found = spread_of("break_even_k", SPD, DENSE)
    assert found.median == pytest.approx(1792)
    assert found.p10 == pytest.approx(768 + 0.2 * (1792 - 768))


def test_what_is_missing_is_said() -> None:
    found = of(SPD)
    assert found["encoder_over_openvino"].spread is None
    assert found["encoder_over_openvino"].reason == "needs spd/openvino"
    assert found["total_k256_over_dav2s"].reason == "needs dav2s/onnxruntime-cpu"
    few = measured("spd/onnxruntime-cpu", [100.0] * 3, {1: [1.0] * 3, 256: [20.0] * 3})
    assert of(few, LIMIT)["slope_over_matmul_limit"].reason == "needs spd/onnxruntime-cpu with K = 1024"
    assert of(few, LITERAL)["literal_over_deployed_k1024"].reason == "needs spd/onnxruntime-cpu with K = 1024"


def test_other_pairs_come_with_their_rows_only() -> None:
    assert "break_even_k_openvino" not in of(SPD, DENSE)
    dense = measured("dav2s/openvino", [225.0, 450.0, 225.0])
    found = spread_of("total_k256_over_dav2s_openvino", OPENVINO, dense)
    assert found.median == pytest.approx(165 / 225)
    assert spread_of("break_even_k_literal", LITERAL, DENSE).rounds == 3
