"""The metrics, against numbers worked out by hand and against plain loops."""

import math
from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from spd.utils.metrics import MAX_DEPTH, MIN_DEPTH, Metrics, bounded, depth_metrics, mean_metrics, median_ratio

depths = st.floats(1e-3, 10.0)
pairs_of_depths = st.lists(st.tuples(depths, depths), min_size=1, max_size=40)


def looped(predicted: list[float], truth: list[float]) -> tuple[float, ...]:
    """The formulas of paper 8, one point at a time."""
    k = len(truth)
    abs_rel = math.fsum(abs(t - p) / t for p, t in zip(predicted, truth, strict=True)) / k
    rmse = math.sqrt(math.fsum((t - p) ** 2 for p, t in zip(predicted, truth, strict=True)) / k)
    deltas = []
    for threshold in (1.25, 1.5625, 1.953125):
        deltas.append(sum(max(p / t, t / p) < threshold for p, t in zip(predicted, truth, strict=True)) / k)
    return abs_rel, rmse, *deltas


def test_worked_out_by_hand() -> None:
    # errors 0.2, 0, 1, 5, 0.9; ratios 1.2, 1, 4/3, 2, 1.9
    found = depth_metrics([1.2, 2, 3, 5, 1.0], [1.0, 2, 4, 10, 1.9])
    assert found.abs_rel == pytest.approx((0.2 + 0 + 0.25 + 0.5 + 0.9 / 1.9) / 5)
    assert found.rmse == pytest.approx(math.sqrt((0.04 + 0 + 1 + 25 + 0.81) / 5))
    assert (found.delta1, found.delta2, found.delta3) == (0.4, 0.6, 0.8)


@pytest.mark.parametrize(("predicted", "deltas"), [(1.25, (0, 1, 1)), (1.5625, (0, 0, 1)), (1.953125, (0, 0, 0))])
def test_a_ratio_on_the_threshold_does_not_count(predicted: float, deltas: tuple[int, ...]) -> None:
    for one in (depth_metrics([predicted], [1.0]), depth_metrics([1.0], [predicted])):
        assert astuple(one)[2:] == deltas


@settings(deadline=None)
@given(pairs_of_depths)
def test_as_the_loops(values: list[tuple[float, float]]) -> None:
    predicted, truth = map(list, zip(*values, strict=True))
    assert astuple(depth_metrics(predicted, truth)) == pytest.approx(looped(predicted, truth), rel=1e-9)


@settings(deadline=None)
@given(pairs_of_depths, st.randoms(use_true_random=False))
def test_order_of_points_does_not_matter(values: list[tuple[float, float]], random) -> None:  # type: ignore[no-untyped-def]
    shuffled = random.sample(values, len(values))
    one, other = (depth_metrics(*zip(*some, strict=True)) for some in (values, shuffled))
    assert astuple(one) == pytest.approx(astuple(other), rel=1e-12)


@settings(deadline=None)
@given(pairs_of_depths)
def test_bounds_and_order_of_the_deltas(values: list[tuple[float, float]]) -> None:
    found = depth_metrics(*zip(*values, strict=True))
    assert 0 <= found.delta1 <= found.delta2 <= found.delta3 <= 1
    assert found.abs_rel >= 0
    assert 0 <= found.rmse < 10


@settings(deadline=None)
@given(st.lists(depths, min_size=1, max_size=40))
def test_perfect(truth: list[float]) -> None:
    assert depth_metrics(truth, truth) == Metrics(0, 0, 1, 1, 1)


@pytest.mark.parametrize(
    ("predicted", "truth"),
    [([], []), ([1.0], [1.0, 2.0]), ([[1.0]], [[1.0]]), ([1.0], [0.0]), ([0.0], [1.0]), ([math.nan], [1.0]),
     ([math.inf], [1.0]), ([1.0], [math.nan])],
)  # fmt: skip
def test_what_cannot_be_compared(predicted: list[float], truth: list[float]) -> None:
    with pytest.raises(ValueError, match=r"expected|finite"):
        depth_metrics(predicted, truth)


def test_mean_over_images() -> None:
    assert mean_metrics([Metrics(0.1, 1, 0, 0.5, 1), Metrics(0.3, 2, 1, 1, 1)]) == Metrics(0.2, 1.5, 0.5, 0.75, 1)
    with pytest.raises(ValueError, match="no metrics"):
        mean_metrics([])


def test_bounded() -> None:
    odd = [math.nan, -math.inf, -1, 0, 1e-3, 2.5, 10, 11, math.inf]
    assert bounded(odd).tolist() == [1e-3, 1e-3, 1e-3, 1e-3, 1e-3, 2.5, 10, 10, 10]
    assert (MIN_DEPTH, MAX_DEPTH) == (1e-3, 10)


@pytest.mark.parametrize(
    ("predicted", "ratio"),
    [
        ([1, 2, 30], 2),
        ([1, 2, math.inf], 2),
        ([math.nan, 2, 3], 2),
        ([-5, 2, 3], 2),
        ([0, 0, 3], 1),
        ([math.nan, -1, 3], 1),
        ([math.inf, math.inf, 3], 1),
        ([5e-324, 5e-324, 3], 1),
    ],
)
def test_median_ratio(predicted: list[float], ratio: float) -> None:
    assert median_ratio(predicted, [1, 4, 9]) == ratio


@settings(deadline=None)
@given(pairs_of_depths, st.integers(-12, 12))
def test_scaled_by_the_median_the_scale_does_not_matter(values: list[tuple[float, float]], exponent: int) -> None:
    columns: tuple[NDArray[np.float64], ...] = tuple(np.array(values).T)
    predicted, truth = columns
    other = predicted * 2.0**exponent  # exact, so that no ratio crosses a threshold by rounding
    one, scaled = (depth_metrics(bounded(p * median_ratio(p, truth)), truth) for p in (predicted, other))
    assert one == scaled
