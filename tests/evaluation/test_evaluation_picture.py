"""The picture of one image's result: what is where, and in which colour."""

import numpy as np
import pytest
from evaluation_support import Lookup, SomePairs, constant, pair
from numpy.typing import NDArray
from PIL import Image

from spd.commands.infer.picture import BACKGROUND, colour
from spd.evaluation import Settings, evaluate
from spd.evaluation.picture import GAP, LARGEST_ERROR, TEXT_SIZE, densified, draw
from spd.evaluation.protocol import Judged


class Plane:
    """Depth grows along u and v."""

    def depth(self, points: NDArray[np.float64], /) -> NDArray[np.float64]:
        return 1 + points @ [0.01, 0.02]


def drawn(lookup: Lookup, settings: Settings | None = None) -> list[Image.Image]:
    pictures = []

    def watch(judged: Judged | None) -> None:
        assert judged is not None
        pictures.append(draw(judged))

    evaluate(lookup, lookup.pairs, settings or Settings(ks=(16,), dense=False), watch=watch)
    return pictures


def panels(picture: Image.Image) -> list[NDArray[np.uint8]]:
    """Photo, truth, prediction and error, without titles and bars."""
    width, above = (picture.width - 5 * GAP) // 4, GAP + 2 * TEXT_SIZE
    starts = (GAP + number * (width + GAP) for number in range(4))
    return [np.asarray(picture)[above : picture.height - above, x : x + width] for x in starts]


def rgb(depth: float, near: float, far: float) -> list[int]:
    values: list[int] = np.rint(colour(np.array(depth), near, far)).astype(int).tolist()
    return values


@pytest.mark.parametrize(("height", "width"), [(40, 60), (37, 51), (4, 4)])
def test_densified(height: int, width: int) -> None:
    found = densified(Plane(), height, width)
    assert found.shape == (height, width)
    assert found.dtype == np.float32
    u, v = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    expected = 1 + 0.01 * u + 0.02 * v
    inner = np.s_[2 : height - 2, 2 : width - 2]  # between the outermost points, where nothing is continued
    np.testing.assert_allclose(found[inner], expected[inner], atol=1e-5)
    assert np.abs(found - expected).max() < 2.5 * 0.03
    np.testing.assert_allclose(densified(Plane(), height, width, 3)[inner], 3 * expected[inner], atol=1e-5)


def test_four_panels_with_one_scale_for_both_depths() -> None:
    depth = np.full((64, 320), 2, np.float32)
    depth[:, 160:] = 4
    data = SomePairs([pair(depth)])
    photo, truth, prediction, error = panels(drawn(Lookup(data, lambda depth: 1.5 * depth))[0])
    assert photo.shape == (64, 320, 3)
    assert photo[10, 10].tolist() == [128, 128, 128]
    assert truth[30, 80].tolist() == rgb(2, 2, 4)
    assert truth[30, 240].tolist() == rgb(4, 2, 4)
    assert prediction[30, 80].tolist() == rgb(3, 2, 4)
    assert prediction[30, 240].tolist() == rgb(4, 2, 4)  # 6 m is beyond the range
    assert error[30, 80].tolist() == rgb(0.5, LARGEST_ERROR, 0)
    assert rgb(0.5, LARGEST_ERROR, 0)[0] > 150 > rgb(0, LARGEST_ERROR, 0)[0]  # red is far off


def test_a_perfect_prediction_has_no_error() -> None:
    error = panels(drawn(Lookup(constant(3.0, size=(64, 320))))[0])[3]
    assert (error == rgb(0, LARGEST_ERROR, 0)).all()


def test_the_median_scale_is_applied() -> None:
    data = SomePairs([pair(np.tile(np.linspace(2, 4, 320, dtype=np.float32), (64, 1)))])
    lookup = Lookup(data, lambda depth: 7 * depth)
    error = panels(drawn(lookup, Settings(ks=(16,), dense=False, median_scale=True))[0])[3]
    assert np.abs(error.astype(int) - rgb(0, LARGEST_ERROR, 0)).max() < 25  # unscaled it would be red


def grey(panel: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return np.isin(panel, (40, 90)).all(axis=2)


def test_what_does_not_count_is_hatched() -> None:
    depth = np.full((480, 640), 3, np.float32)
    depth[100:200, 200:300] = np.nan
    depth[300:310, 300:310] = 50
    data = SomePairs([pair(depth)])
    lookup = Lookup(data, lambda depth: np.full_like(depth, 3))
    photo, truth, prediction, error = panels(drawn(lookup, Settings(ks=(16,), dense=False, eigen_crop=True))[0])
    hole = ~((depth > 0) & (depth < 10))
    outside = np.ones_like(hole)
    outside[45:471, 41:601] = False
    assert (grey(truth) == hole).all()
    assert (grey(error) == (hole | outside)).all()
    assert not grey(prediction).any()
    assert not grey(photo).any()


@pytest.mark.parametrize("size", [(8, 8), (30, 40), (50, 321)])
def test_sizes(size: tuple[int, int]) -> None:
    picture = drawn(Lookup(constant(3.0, size=size)))[0]
    factor = -(-320 // size[1])
    assert panels(picture)[0].shape == (size[0] * factor, size[1] * factor, 3)
    assert panels(picture)[0][:factor, factor : 2 * factor].tolist() == [[[128] * 3] * factor] * factor


def test_long_names_stay_inside_their_panel() -> None:
    data = SomePairs([pair(np.full((64, 320), 2, np.float32), "/data/" + "very_long/" * 40 + "rgb\n_1.jpg")])
    picture = np.asarray(drawn(Lookup(data))[0])
    title = picture[GAP : GAP + 2 * TEXT_SIZE]
    written = (title != BACKGROUND).any(axis=(0, 2))
    assert written[GAP : GAP + 300].any()
    assert not written[GAP + 320 : 2 * GAP + 320].any()
