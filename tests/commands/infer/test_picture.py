"""The picture: colours, ticks, and points where they belong."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from spd.commands.infer.picture import colour, depth_range, draw, ticks

GREY = (127, 127, 127)


def test_colours_run_from_red_to_blue() -> None:
    red, green, blue = colour(np.array([1.0, 3.0, 5.0]), 1.0, 5.0)
    assert red.argmax() == 0
    assert green.argmax() == 1
    assert blue.argmax() == 2
    ramp = colour(np.linspace(1, 5, 256), 1.0, 5.0)
    assert (np.abs(np.diff(ramp, axis=0)).sum(axis=1) > 0.5).all()  # every step can be seen
    np.testing.assert_array_equal(colour(np.array([0.0, 9.0]), 1.0, 5.0), ramp[[0, -1]])


def test_depth_range() -> None:
    assert depth_range(np.array([2.0, np.nan, 4.0])) == (2.0, 4.0)
    assert depth_range(np.array([np.nan])) is None
    assert depth_range(np.zeros(0)) is None
    near, far = depth_range(np.full(3, 2.0)) or (0, 0)
    assert near < 2.0 < far


@given(st.floats(1e-3, 1e4), st.floats(1e-5, 1e4), st.integers(2, 7))
def test_ticks(near: float, width: float, count: int) -> None:
    values = ticks(near, near + width, count)
    assert len(values) <= count
    assert all(near - 1e-6 * width <= value <= near + width * (1 + 1e-6) for value in values)
    if len(values) > 1:
        steps = np.diff(values)
        np.testing.assert_allclose(steps, steps[0], rtol=1e-3)
        assert f"{steps[0]:.0e}"[0] in "125"


def test_ticks_of_a_room() -> None:
    assert ticks(0.7, 5.2, 5) == [1, 2, 3, 4, 5]
    assert ticks(2.375, 2.625, 6) == pytest.approx([2.4, 2.45, 2.5, 2.55, 2.6])


def test_points_have_their_depths_colour_at_their_place() -> None:
    image = Image.new("RGB", (640, 480), GREY)
    points = np.array([[100.0, 50.0], [320.0, 240.0], [600.0, 400.0], [20.0, 460.0]])
    depth = np.array([1.0, 2.0, 3.0, np.nan], dtype=np.float32)
    pixels = np.asarray(draw(image, points, depth))
    assert pixels.shape[0] == 480
    assert pixels.shape[1] > 640 + 40
    expected = colour(depth[:3], 1.0, 3.0)
    for (u, v), rgb in zip(points[:3].astype(int), expected, strict=True):
        np.testing.assert_allclose(pixels[v, u], rgb, atol=1)
        assert (pixels[v, u - 30] == GREY).all()
        ring = np.abs(pixels[v, u : u + 20].astype(int) - GREY).max(axis=1) > 90
        assert ring.any()  # an outline that neither photo nor disc can swallow
    assert (pixels[440:480, :40] == GREY).all()  # NaN is not drawn


def test_the_photo_stays_visible_below_many_points() -> None:
    rng = np.random.default_rng(0)
    points = rng.random((5000, 2)) * (640, 480)
    pixels = np.asarray(draw(Image.new("RGB", (640, 480), GREY), points, rng.random(5000).astype(np.float32) + 1))
    untouched = (pixels[:, :640] == GREY).all(axis=2).mean()
    assert 0.2 < untouched < 0.9


@pytest.mark.parametrize("size", [(1, 1), (37, 23), (1, 5000), (5000, 1), (1500, 300), (3000, 4000)])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_any_size(size: tuple[int, int], count: int) -> None:
    points = np.random.default_rng(0).random((count, 2)) * size
    picture = draw(Image.new("RGB", size, GREY), points, np.full(count, 2.5, dtype=np.float32))
    assert picture.mode == "RGB"
    assert 200 <= picture.height <= 2048
    assert picture.width <= 2048 + 300


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e5])
def test_any_depth(scale: float) -> None:
    depth = np.array([1, 1.00001, 7], dtype=np.float32) * np.float32(scale)
    picture = draw(Image.new("RGB", (64, 64), GREY), np.array([[1.0, 1], [9, 9], [50, 50]]), depth)
    assert picture.height == 640
