"""Points in space are where their pixels' rays meet their depths."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spd.errors import InputError
from spd.points.space import Intrinsics, to_space

PIXELS = st.floats(-5000, 5000)


@given(st.floats(50, 5000), st.floats(50, 5000), PIXELS, PIXELS, st.integers(0, 99))
def test_points_in_space_project_back_to_their_pixels(fx: float, fy: float, cx: float, cy: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    points, depth = rng.random((20, 2)) * (1600, 900), rng.uniform(0.1, 100, 20).astype(np.float32)
    xyz = to_space(points, depth, Intrinsics(fx, fy, cx, cy))
    assert (xyz.dtype, xyz.shape) == (np.float32, (20, 3))
    matrix = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    projected = xyz.astype(np.float64) @ matrix.T
    # float32 holds x / z to 2^-23 of itself; in pixels that is at most 1600 + 5000.
    np.testing.assert_allclose(projected[:, :2] / projected[:, 2:], points, rtol=0, atol=2.0**-22 * 6600)
    np.testing.assert_array_equal(xyz[:, 2], depth)


def test_right_is_x_down_is_y_and_forward_is_z() -> None:
    camera = Intrinsics(100, 200, 50, 40)
    xyz = to_space(np.array([[150.0, 40.0], [50.0, 240.0], [0.0, 40.0]]), np.array([2, 3, 4], np.float32), camera)
    np.testing.assert_array_equal(xyz, np.array([[2, 0, 2], [0, 3, 3], [-2, 0, 4]], np.float32))


def test_a_point_without_a_depth_has_no_place() -> None:
    xyz = to_space(np.ones((1, 2)), np.array([np.nan], np.float32), Intrinsics(1, 1, 0, 0))
    assert np.isnan(xyz).all()


def test_a_camera_matrix_is_the_same_as_its_four_numbers() -> None:
    expected = Intrinsics(500, 510, 320, 240)
    assert Intrinsics.of([[500, 0, 320], [0, 510, 240], [0, 0, 1]]) == expected
    assert Intrinsics.of((500, 510, 320, 240)) == Intrinsics.of(np.array(expected)) == expected


@pytest.mark.parametrize(
    ("intrinsics", "message"),
    [
        ((500, 500, 320), r"shape \[3\], expected fx, fy, cx, cy or a matrix"),
        (None, "shape|not numbers"),
        ("500,500,320,240", "not numbers"),
        ((0, 500, 320, 240), "focal lengths above 0"),
        ((500, -1, 320, 240), "focal lengths above 0"),
        ((500, 500, math.nan, 240), "expected finite numbers"),
        ([[500, 1, 320], [0, 500, 240], [0, 0, 1]], r"expected \[\[fx, 0, cx\], \[0, fy, cy\], \[0, 0, 1\]\]"),
        ([[500, 0, 320], [0, 500, 240], [0, 0, 2]], "expected"),
    ],
)
def test_what_is_no_camera_is_refused(intrinsics: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        Intrinsics.of(intrinsics)
    assert "\n" not in str(caught.value)
