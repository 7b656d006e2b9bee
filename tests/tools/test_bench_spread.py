"""Percentiles, paired ratios and break-even points against numpy and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.bench.spread import AT_ONCE, NEVER, Spread, break_even, quantile, ratio

times = st.floats(1e-3, 1e6)


@given(st.lists(times, min_size=1, max_size=30), st.floats(0, 1))
def test_quantile_is_numpys(values: list[float], share: float) -> None:
    assert quantile(values, share) == pytest.approx(float(np.quantile(values, share)))


def test_quantiles_with_infinities() -> None:
    assert quantile([1.0, math.inf, 2.0], 0.5) == 2.0
    assert quantile([1.0, math.inf], 0.5) == math.inf
    assert quantile([math.inf, math.inf], 0.9) == math.inf


def test_a_spread_by_hand() -> None:
    # Ten equal steps: the 10th percentile is the second value.
    assert Spread.of([float(value) for value in range(10, -1, -1)]) == Spread(5.0, 1.0, 9.0, 11)


def test_ratios_pair_the_rounds() -> None:
    # A machine that became three times slower half way: each ratio is 2 all the same.
    assert ratio([2.0, 6.0, 6.0], [1.0, 3.0, 3.0]) == Spread(2.0, 2.0, 2.0, 3)
    with pytest.raises(ValueError, match=r"shorter|longer"):
        ratio([1.0, 2.0], [1.0])


def test_break_even_between_two_measured_counts() -> None:
    # 100 + decode: 110 at K = 10, 200 at K = 100; 150 is 4/9 of the way.
    assert break_even(100.0, {10: 10.0, 100: 100.0}, 150.0) == pytest.approx(50.0)


def test_break_even_below_the_smallest_measured_count() -> None:
    # Points cost 1 each from 0 on.
    assert break_even(100.0, {10: 10.0}, 104.0) == pytest.approx(4.0)


def test_break_even_at_a_measured_count() -> None:
    assert break_even(100.0, {10: 10.0, 100: 100.0}, 110.0) == pytest.approx(10.0)


def test_break_even_beyond_the_largest_measured_count() -> None:
    # The last two say 0.5 each: 70 more than at K = 100 are 140 points.
    assert break_even(100.0, {10: 15.0, 100: 60.0}, 230.0) == pytest.approx(240.0)


def test_break_even_at_once() -> None:
    assert break_even(100.0, {1: 1.0}, 99.0) == AT_ONCE
    assert break_even(100.0, {1: 1.0}, 100.0) == AT_ONCE


def test_break_even_never() -> None:
    assert break_even(100.0, {1: 5.0, 10: 5.0}, 200.0) == NEVER
    assert break_even(100.0, {1: 5.0, 10: 4.0}, 200.0) == NEVER


@given(times, st.floats(1e-3, 10), times)
def test_at_the_break_even_both_cost_the_same(encode: float, slope: float, dense: float) -> None:
    found = break_even(encode, {count: slope * count for count in (1, 16, 256)}, dense)
    if encode >= dense:
        assert found == AT_ONCE
    else:
        assert encode + slope * found == pytest.approx(dense, rel=1e-6)
