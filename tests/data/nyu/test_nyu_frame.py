"""The rules that frames of every layout go through."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nyu_support import one_line, picture

from spd.data.augment import place
from spd.data.nyu.frame import Frame, metres, to_pair
from spd.errors import DataError


def frame(depth: npt.NDArray[np.float32], width: int = 4, height: int = 3) -> Frame:
    return Frame(picture(1, width, height), depth, "a/1.jpg", "/nyu/a/1.png", "16-bit PNG in millimetres")


@given(st.lists(st.floats(width=32), min_size=12, max_size=12))
def test_what_is_not_a_depth_becomes_zero(values: list[float]) -> None:
    values = [2.0] * 12 + values  # keeps the median plausible or undecided
    stored = np.array(values, dtype=np.float32).reshape(6, 4)
    try:
        depth = to_pair(frame(stored, 4, 6), "test").depth
    except DataError as error:
        one_line(error, "/nyu/a/1.png has a median depth")
        return
    expected = [value if 0 < value < float("inf") and value != 10 else 0.0 for value in values]
    np.testing.assert_array_equal(depth.ravel(), np.array(expected, dtype=np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -1.0, 0.0, 10.0])
def test_no_valid_depth(value: float) -> None:
    with pytest.raises(DataError) as caught:
        to_pair(frame(np.full((3, 4), value, dtype=np.float32)), "train")
    one_line(caught.value, "/nyu/a/1.png has no valid depth")


def test_depth_outside_of_the_crop_does_not_count_for_training() -> None:
    depth = np.full((480, 640), 3.0, dtype=np.float32)
    depth[45:472, 43:608] = 0
    both = frame(depth, 640, 480)
    assert to_pair(both, "test").depth.any()
    with pytest.raises(DataError) as caught:
        to_pair(both, "train")
    one_line(caught.value, "no valid depth in columns 43 to 607 of rows 45 to 471")


@pytest.mark.parametrize(("width", "height"), [(639, 480), (480, 640), (565, 427), (224, 224)])
def test_other_sizes_are_kept_whole(width: int, height: int) -> None:
    pair = to_pair(frame(np.full((height, width), 3.0, dtype=np.float32), width, height), "train")
    assert pair.image.shape == (height, width, 3)
    assert pair.depth.shape == (height, width)
    assert pair.cut_from is None


def test_a_training_crop_is_shown_as_large_as_in_the_whole() -> None:
    """As large as the runtime shows it, which fits the whole picture: 565 of 640 columns at half size are 282."""
    depth = np.full((480, 640), 3.0, dtype=np.float32)
    placed = place(to_pair(frame(depth, 640, 480), "train"), 240, 320)
    rows, columns = np.nonzero(placed.depth)
    assert (np.ptp(columns) + 1, np.ptp(rows) + 1) == (round(565 / 2), round(427 / 2))
    assert placed.depth.max() == 3.0


@pytest.mark.parametrize("shape", [(4, 3), (3, 5), (2, 4)])
def test_another_size(shape: tuple[int, int]) -> None:
    with pytest.raises(DataError) as caught:
        to_pair(frame(np.full(shape, 3.0, dtype=np.float32)), "test")
    one_line(caught.value, "/nyu/a/1.png", " x ".join(str(side) for side in reversed(shape)), "4 x 3 pixels")


@pytest.mark.parametrize(
    ("depth", "bad"), [(0.099, True), (0.101, False), (19.9, False), (20.1, True), (3000.0, True), (0.003, True)]
)
def test_suspected_units(depth: float, bad: bool) -> None:
    values = np.full((3, 4), depth, dtype=np.float32)
    values[0] = 0  # holes do not count
    if not bad:
        assert to_pair(frame(values), "train").depth.max() == np.float32(depth)
        return
    with pytest.raises(DataError) as caught:
        to_pair(frame(values), "train")
    one_line(caught.value, "/nyu/a/1.png", f"{depth:.4g} m when read as 16-bit PNG in millimetres")


def test_numbers_beyond_float32_become_infinite() -> None:
    np.testing.assert_array_equal(metres(np.array([1e300, -1e300, 2.5])), np.array([np.inf, -np.inf, 2.5]))
