"""Which pixels are asked: the valid ones, inside the crop, drawn uniformly and reproducibly."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from spd.data.pairs import Pair
from spd.errors import DataError
from spd.evaluation.points import Candidates, Pixels


def pair(depth: NDArray[np.float32]) -> Pair:
    return Pair(np.zeros((*depth.shape, 3), np.uint8), depth, "some.png")


def random_depth(height: int, width: int, seed: int = 0) -> NDArray[np.float32]:
    """All different, a third of them missing."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random((height, width)) < 1 / 3, 0, 1 + 8 * rng.random((height, width))).astype(np.float32)


def truth_at(depth: NDArray[np.float32], pixels: Pixels) -> list[float]:
    return [float(depth[int(v), int(u)]) for u, v in pixels.points.tolist()]


def as_set(pixels: Pixels) -> set[tuple[float, float]]:
    return {(u, v) for u, v in pixels.points.tolist()}


def test_truth_counts_strictly_between_its_bounds() -> None:
    below, above = np.nextafter(np.float32(10), np.float32(0)), np.nextafter(np.float32(1e-3), np.float32(1))
    depth = np.array([[0, 1e-3, above, 5, below, 10, np.inf, np.nan, -1]], np.float32)
    assert Candidates(pair(depth), 0, 0).valid.tolist() == [[False, False, True, True, True, *[False] * 4]]


def test_all_pixels_with_their_centres_and_depths() -> None:
    depth = random_depth(7, 9)
    found = Candidates(pair(depth), 0, 0).all()
    expected = [(i + 0.5, j + 0.5) for j in range(7) for i in range(9) if depth[j, i] > 0]
    assert found.points.tolist() == [list(point) for point in expected]
    assert found.truth.tolist() == truth_at(depth, found)
    assert found.truth.dtype == np.float64


def test_the_eigen_crop() -> None:
    depth = np.ones((480, 640), np.float32)
    found = Candidates(pair(depth), 0, 0, eigen_crop=True)
    assert found.cropped
    points = found.all().points
    assert len(found) == len(points) == 426 * 560
    # The centres of columns 41..600 and of rows 45..470.
    assert (points.min(axis=0).tolist(), points.max(axis=0).tolist()) == ([41.5, 45.5], [600.5, 470.5])
    sampled = found.sample(5000).points
    assert (sampled >= [41, 45]).all()
    assert (sampled <= [601, 471]).all()


@pytest.mark.parametrize("shape", [(479, 640), (640, 480), (240, 320)])
def test_other_sizes_have_no_crop(shape: tuple[int, int]) -> None:
    found = Candidates(pair(np.ones(shape, np.float32)), 0, 0, eigen_crop=True)
    assert not found.cropped
    assert len(found) == shape[0] * shape[1]


def test_without_the_crop_everything_counts() -> None:
    found = Candidates(pair(np.ones((480, 640), np.float32)), 0, 0)
    assert not found.cropped
    assert len(found) == 480 * 640


@given(st.integers(1, 30), st.integers(0, 2**32), st.integers(0, 10_000))
@settings(max_examples=50, deadline=None)
def test_a_sample(k: int, seed: int, index: int) -> None:
    depth = random_depth(5, 8)
    found = Candidates(pair(depth), index, seed)
    sampled = found.sample(k)
    assert sampled.points.shape == (k, 2)
    assert as_set(sampled) <= as_set(found.all())
    assert sampled.truth.tolist() == truth_at(depth, sampled)
    if k <= len(found):
        assert len(as_set(sampled)) == k  # none twice


def test_more_points_than_pixels() -> None:
    depth = np.zeros((4, 4), np.float32)
    depth[1, 2] = depth[3, 0] = 2
    sampled = Candidates(pair(depth), 0, 0).sample(100)
    assert sampled.points.shape == (100, 2)
    assert as_set(sampled) == {(2.5, 1.5), (0.5, 3.5)}


def test_a_sample_depends_on_seed_index_and_k_only() -> None:
    depth = random_depth(50, 60)

    def sampled(index: int, seed: int, k: int, before: tuple[int, ...] = ()) -> list[list[float]]:
        candidates = Candidates(pair(depth), index, seed)
        for other in before:
            candidates.sample(other)
        points: list[list[float]] = candidates.sample(k).points.tolist()
        return points

    assert sampled(3, 5, 64) == sampled(3, 5, 64, before=(1, 256))
    assert sampled(3, 5, 64) != sampled(4, 5, 64)
    assert sampled(3, 5, 64) != sampled(3, 6, 64)
    assert sampled(3, 5, 64) != sampled(5, 3, 64)
    assert sampled(3, 5, 65)[:64] != sampled(3, 5, 64)


def test_a_sample_is_uniform() -> None:
    depth = np.zeros((3, 40), np.float32)
    depth[1, [0, 1, 20, 39]] = 2
    drawn = [Candidates(pair(depth), index, 0).sample(1).points[0, 0] for index in range(2000)]
    counts = [drawn.count(i + 0.5) for i in (0, 1, 20, 39)]
    assert sum(counts) == 2000
    assert max(abs(count - 500) for count in counts) < 80  # four deviations


def test_at_most_so_many_of_all() -> None:
    candidates = Candidates(pair(random_depth(20, 20)), 0, 0)
    assert len(candidates.all(50).truth) == 50
    assert candidates.all(50).points.tolist() == candidates.sample(50).points.tolist()
    assert candidates.all(len(candidates)).points.tolist() == candidates.all().points.tolist()


def test_nothing_to_compare_with() -> None:
    depth = np.zeros((480, 640), np.float32)
    with pytest.raises(DataError, match=r"some\.png has no depth between 0\.001 and 10 m, so"):
        Candidates(pair(depth), 0, 0)
    depth[:45] = 2
    Candidates(pair(depth), 0, 0)
    with pytest.raises(DataError, match="inside the Eigen crop"):
        Candidates(pair(depth), 0, 0, eigen_crop=True)


def test_sizes_that_differ() -> None:
    broken = Pair(np.zeros((4, 5, 3), np.uint8), np.ones((5, 4), np.float32), "some.png")
    with pytest.raises(DataError, match=r"some\.png: image and depth have 5 x 4 and 4 x 5 pixels"):
        Candidates(broken, 0, 0)
