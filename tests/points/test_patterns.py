"""Query points that are made for the size of an image."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spd.errors import PointsError
from spd.points import Pattern, grid, read_points


@settings(deadline=None)
@given(st.integers(1, 3000), st.integers(1, 4000), st.integers(1, 4000))
def test_grid(count: int, width: int, height: int) -> None:
    points = grid(count, width, height)
    assert points.shape == (count, 2)
    assert (points > 0).all()
    assert (points < (width, height)).all()
    rows = [points[points[:, 1] == v] for v in np.unique(points[:, 1])]
    lengths = [len(row) for row in rows]
    assert max(lengths) - min(lengths) <= 1
    for row in rows:  # centred: as much room on the left as on the right
        np.testing.assert_allclose(row[:, 0] + row[::-1, 0], width)


def test_grid_is_rectangular_where_it_can_be() -> None:
    points = grid(12, 640, 480)
    assert np.unique(points[:, 0]).tolist() == [80, 240, 400, 560]
    assert np.unique(points[:, 1]).tolist() == [80, 240, 400]
    assert len(np.unique(grid(256, 640, 480)[:, 1])) == 16


@pytest.mark.parametrize("source", ["grid:200", "random:200", "random:200:7"])
def test_patterns(source: str) -> None:
    pattern = read_points(source)
    assert isinstance(pattern, Pattern)
    table = pattern.table(37, 23)
    assert table.points.shape == (200, 2)
    assert ((table.points >= 0) & (table.points < (37, 23))).all()
    np.testing.assert_array_equal(table.points, [[float(c) for c in cells] for cells in table.cells()])
    again = pattern.table(37, 23)
    np.testing.assert_array_equal(table.points, again.points)


def test_seeds_differ() -> None:
    tables = [Pattern("random", 50, seed).table(640, 480).points for seed in (0, 1, 2)]
    assert all((a != b).any() for a, b in pairwise(tables))
    assert tables[0].mean(axis=0) == pytest.approx([320, 240], rel=0.25)


@pytest.mark.parametrize(
    "source",
    [
        *("grid:", "grid:0", "grid:-1", "grid:1.5", "grid:abc", "grid:10:1", "grid:1_0", "grid:99999999"),
        *("random:", "random:0", "random:x", "random:10:", "random:10:x", "random:10:-1", "random:10:1:2"),
        "grid:" + "9" * 5000,
    ],
)
def test_patterns_refused(source: str) -> None:
    with pytest.raises(PointsError, match=r"is not (grid|random):N|asks for"):
        read_points(source)
