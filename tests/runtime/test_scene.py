"""Points on their way through a scene: mapped, cut into chunks, answered in order, or refused."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from spd.errors import PointsError
from spd.runtime import Model
from spd.runtime.backend import Backend

WIDTH, HEIGHT = 192, 160


class Recorder(Backend):
    """Its depth is the red value of the graph's image under the point, or else u + v; it keeps the points it got."""

    name, precision, height, width, max_points = "recorder", "fp32", HEIGHT, WIDTH, 512

    def __init__(self, sees: bool = False) -> None:
        self.queries: list[NDArray[np.float32]] = []
        self.sees = sees

    def encode(self, image: NDArray[np.uint8]) -> Any:
        assert (image.dtype, image.shape, image.flags.c_contiguous) == (np.uint8, (1, HEIGHT, WIDTH, 3), True)
        return image

    def decode(self, cache: Any, points: NDArray[np.float32]) -> NDArray[np.float32]:
        assert (points.dtype, points.ndim, points.flags.c_contiguous) == (np.float32, 3, True)
        assert 1 <= points.shape[1] <= self.max_points
        self.queries.append(points[0])
        u, v = points[0].T
        if not self.sees:
            return (u + v)[None]
        columns, rows = np.minimum(np.floor(u), WIDTH - 1).astype(int), np.minimum(np.floor(v), HEIGHT - 1).astype(int)
        return cache[:, rows, columns, 0].astype(np.float32)


def scene_of(backend: Backend, width: int, height: int, value: int = 255) -> Any:
    return Model(backend, None, []).encode(np.full((height, width, 3), value, np.uint8))


def expected_in_graph(points: NDArray[np.float64], width: int, height: int) -> NDArray[np.float64]:
    """The largest whole-pixel placement of the image with its aspect kept, in the middle, in exact arithmetic."""
    scale = min(Fraction(WIDTH, width), Fraction(HEIGHT, height))
    resized = [max(1, math.floor(side * scale + Fraction(1, 2))) for side in (width, height)]
    pad = [(side - used) // 2 for side, used in zip((WIDTH, HEIGHT), resized, strict=True)]
    factors = [Fraction(used, side) for used, side in zip(resized, (width, height), strict=True)]
    mapped = [[Fraction(x) * f + p for x, f, p in zip(point, factors, pad, strict=True)] for point in points.tolist()]
    return np.array(mapped, dtype=np.float64)


@settings(max_examples=80, deadline=None)
@given(width=st.integers(1, 900), height=st.integers(1, 900), seed=st.integers(0, 99))
def test_points_reach_the_graph_where_the_letterbox_puts_them(width: int, height: int, seed: int) -> None:
    points = np.random.default_rng(seed).random((20, 2)) * (width, height)
    points[0], points[1] = 0, np.nextafter((width, height), 0)
    backend = Recorder()
    depth = scene_of(backend, width, height).depth(points)
    expected = expected_in_graph(points, width, height)
    (got,) = backend.queries
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-5)  # float32 has steps of 1.5e-5 above 128
    np.testing.assert_allclose(depth, expected.sum(axis=1), rtol=0, atol=6e-5)


@settings(max_examples=80, deadline=None)
@given(width=st.integers(1, 900), height=st.integers(1, 900))
def test_points_of_the_image_never_fall_on_the_padding(width: int, height: int) -> None:
    points = np.random.default_rng(0).random((50, 2)) * (1 - 1e-6) * (width, height)
    depth = scene_of(Recorder(sees=True), width, height, value=255).depth(points)
    assert (depth == 255).all()


@pytest.mark.parametrize(("count", "chunks"), [(1, [1]), (512, [512]), (513, [512, 1]), (1300, [512, 512, 276])])
def test_many_points_are_asked_in_chunks_and_answered_in_order(count: int, chunks: list[int]) -> None:
    backend = Recorder()
    points = np.random.default_rng(0).random((count, 2)) * (WIDTH, HEIGHT)
    depth = scene_of(backend, WIDTH, HEIGHT).depth(points)
    assert [len(query) for query in backend.queries] == chunks
    np.testing.assert_array_equal(np.concatenate(backend.queries), points.astype(np.float32))
    np.testing.assert_array_equal(depth, points.astype(np.float32).sum(axis=1, dtype=np.float32))


@pytest.mark.parametrize("nothing", [[], np.empty((0, 2)), np.empty((0, 2), np.int32), ()])
def test_no_points_give_no_depths_and_no_work(nothing: Any) -> None:
    backend = Recorder()
    depth = scene_of(backend, 20, 10).depth(nothing)
    assert (depth.shape, depth.dtype, backend.queries) == ((0,), np.float32, [])


def test_chunks_of_the_real_bundle(cpu_model: Model, rooms) -> None:
    """1,300 points at once are the same points asked 512 at a time, exactly."""
    points = np.random.default_rng(3).random((1300, 2)) * (WIDTH, HEIGHT)
    with cpu_model.encode(rooms[0]) as scene:
        at_once = scene.depth(points)
        by_hand = [scene.depth(points[start : start + 512]) for start in (0, 512, 1024)]
        assert scene.depth([]).shape == (0,)
        alone = [scene.depth([point])[0] for point in points[::130]]
    np.testing.assert_array_equal(at_once, np.concatenate(by_hand))
    np.testing.assert_allclose(at_once[::130], alone, rtol=1e-5)


def test_a_point_asked_three_times_has_one_depth(cpu_model: Model, rooms, points: NDArray[np.float64]) -> None:
    with cpu_model.encode(rooms[1]) as scene:
        depth = scene.depth(np.concatenate([points, points, points[:1]]))
    np.testing.assert_allclose(depth[300:600], depth[:300], rtol=1e-6)
    assert depth[600] == pytest.approx(depth[0], rel=1e-6)


def test_any_numbers_will_do() -> None:
    scene = scene_of(Recorder(), WIDTH, HEIGHT)
    for points in (
        [(3, 4)],
        ((3, 4),),
        np.array([[3, 4]], np.uint8),
        np.array([[3, 4]], np.float16),
        [[3.0, True * 4]],
    ):
        assert scene.depth(points).tolist() == [7.0]
    crossed = np.array([[3, 9], [4, 9]])[:, 0][None]  # neither C- nor F-contiguous
    assert scene.depth(crossed).tolist() == [7.0]


def test_the_first_pixel_begins_at_0_and_the_last_ends_below_the_width() -> None:
    scene = scene_of(Recorder(), 30, 20)
    depth = scene.depth([(0.0, 0.0), (-0.0, -0.0), np.nextafter((30.0, 20.0), 0)])
    assert np.isfinite(depth).all()
    for outside in ((30, 0), (0, 20), (-1e-9, 0), (0, -1e-300), (1e300, 0)):
        with pytest.raises(PointsError, match=r"point 0 \(.*\) is outside the image of 30 x 20 pixels"):
            scene.depth([outside])


def test_outside_error_names_the_first_such_point() -> None:
    with pytest.raises(PointsError, match=r"point 2 \(5, 20\) is outside the image of 30 x 20 pixels; .*\"nan\"") as e:
        scene_of(Recorder(), 30, 20).depth([(0, 0), (1, 1), (5, 20), (99, 99)])
    assert "\n" not in str(e.value)


def test_outside_nan_leaves_the_others_as_they_are() -> None:
    backend = Recorder()
    scene = scene_of(backend, WIDTH, HEIGHT)
    depth = scene.depth([(-1, 0), (1, 2), (1e300, 3), (192, 0), (191, 159)], outside="nan")
    np.testing.assert_array_equal(depth, np.array([np.nan, 3, np.nan, np.nan, 350], np.float32))
    assert [query.tolist() for query in backend.queries] == [[[1, 2], [191, 159]]]
    assert np.isnan(scene.depth([(-1, 0)], outside="nan")).all()
    assert len(backend.queries) == 1


@pytest.mark.parametrize("outside", ["error", "nan"])
@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([(1, 2), (3, math.nan)], r"point 1 is \(3.0, nan\), expected finite"),
        ([(math.inf, 0)], r"point 0 is \(inf, 0.0\), expected finite"),
        ([(0, -math.inf)], r"point 0 is \(0.0, -inf\), expected finite"),
        ([(None, 1)], r"point 0 is \(nan, 1.0\), expected finite"),
        ([1, 2], r"shape \[2\], expected \[K, 2\]"),
        ([[1, 2, 3]], r"shape \[1, 3\]"),
        (np.zeros((1, 4, 2)), r"shape \[1, 4, 2\]"),
        (np.zeros((0, 3)), r"shape \[0, 3\]"),
        (5.0, r"shape \[\], expected"),
        ([(1, 2), (3,)], "not numbers"),
        ([("a", "b")], "not numbers .*'a'"),
        ([(10**400, 0)], "not numbers .*too large"),
        ({"u": 1}, "not numbers"),
    ],
)
def test_points_that_are_none_are_refused(points: Any, message: str, outside: str) -> None:
    backend = Recorder()
    with pytest.raises(PointsError, match=message) as caught:
        scene_of(backend, 30, 20).depth(points, outside=outside)
    assert "\n" not in str(caught.value)
    assert backend.queries == []


def test_outside_must_be_one_of_two_words() -> None:
    with pytest.raises(ValueError, match='"error" or "nan"'):
        scene_of(Recorder(), 30, 20).depth([(1, 1)], outside="clip")
