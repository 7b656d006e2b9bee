"""The picture of one image's result: what is where, and in which colour."""

import numpy as np
import pytest
from evaluation_support import Lookup, SomePairs, constant, pair
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from plot_support import cut_off, overlaps

from spd.evaluation import Settings, evaluate
from spd.evaluation.picture import LARGEST_ERROR, densified, draw
from spd.evaluation.protocol import Judged


class Plane:
    """Depth grows along u and v."""

    def depth(self, points: NDArray[np.float64], /) -> NDArray[np.float64]:
        return 1 + points @ [0.01, 0.02]


def drawn(lookup: Lookup, settings: Settings | None = None) -> Figure:
    pictures = []

    def watch(judged: Judged | None) -> None:
        assert judged is not None
        pictures.append(draw(judged))

    evaluate(lookup, lookup.pairs, settings or Settings(ks=(16,), dense=False), watch=watch)
    return pictures[0]


def panels(made: Figure) -> list[np.ma.MaskedArray]:
    """Pixels of photo, error, truth and prediction."""
    return [axes.images[0].get_array() for axes in made.axes[:4]]


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
    made = drawn(Lookup(data, lambda depth: 1.5 * depth))
    photo, error, truth, prediction = panels(made)
    assert photo.tolist() == data[0].image.tolist()
    assert truth.tolist() == depth.tolist()
    assert prediction[30, 80] == 3
    assert prediction[30, 240] == 6
    assert error[30, 80] == error[30, 240] == 0.5
    images = [axes.images[0] for axes in made.axes[:4]]
    assert images[2].get_clim() == images[3].get_clim() == (2, 4)
    assert images[1].get_clim() == (0, LARGEST_ERROR)
    near, far, good, bad = images[2].cmap(0.0), images[2].cmap(1.0), images[1].cmap(0.0), images[1].cmap(1.0)
    assert near == bad
    assert far == good
    assert near[0] > 0.4 > near[2], "near is red"
    bars = [axes.get_ylabel() for axes in made.axes if axes.get_ylabel()]
    assert bars == ["|d* - d| / d*", "depth [m]"]


def test_a_perfect_prediction_has_no_error() -> None:
    made = drawn(Lookup(constant(3.0, size=(64, 320))))
    assert (panels(made)[1] == 0).all()
    low, high = made.axes[2].images[0].get_clim()
    assert low < 3 < high, "a range also where all depths are the same"


def test_the_median_scale_is_applied() -> None:
    data = SomePairs([pair(np.tile(np.linspace(2, 4, 320, dtype=np.float32), (64, 1)))])
    lookup = Lookup(data, lambda depth: 7 * depth)
    error = panels(drawn(lookup, Settings(ks=(16,), dense=False, median_scale=True)))[1]
    assert error.max() < 0.02  # between the points it is interpolated; unscaled it would be 1.5 to 4


def test_what_does_not_count_is_hatched() -> None:
    depth = np.full((480, 640), 3, np.float32)
    depth[100:200, 200:300] = np.nan
    depth[300:310, 300:310] = 50
    lookup = Lookup(SomePairs([pair(depth)]), lambda depth: np.full_like(depth, 3))
    made = drawn(lookup, Settings(ks=(16,), dense=False, eigen_crop=True))
    photo, error, truth, prediction = panels(made)
    hole = ~((depth > 0) & (depth < 10))
    outside = np.ones_like(hole)
    outside[45:471, 41:601] = False
    assert (np.ma.getmaskarray(truth) == hole).all()
    assert (np.ma.getmaskarray(error) == (hole | outside)).all()
    assert not np.ma.getmaskarray(prediction).any()
    assert not np.ma.getmaskarray(photo).any()
    assert {axes.patch.get_hatch() for axes in made.axes[:4]} == {"////"}
    assert made.axes[1].images[0].cmap.get_bad()[3] == 0, "what lies below is seen"


def shown_size(axes: Axes) -> tuple[float, float]:
    box = axes.get_window_extent()
    return box.width, box.height


@pytest.mark.parametrize("size", [(8, 8), (30, 40), (50, 321), (300, 40), (480, 640)])
def test_panels_have_the_shape_of_the_image_and_are_equally_large(size: tuple[int, int]) -> None:
    made = drawn(Lookup(constant(3.0, size=size)))
    made.draw_without_rendering()
    sizes = [shown_size(axes) for axes in made.axes[:4]]
    assert sizes[0][0] / sizes[0][1] == pytest.approx(size[1] / size[0], rel=0.01)
    for other in sizes[1:]:
        assert other == pytest.approx(sizes[0], rel=0.02)
    assert overlaps(made) == []
    assert cut_off(made) == []


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("short é $a$.png", "short é $a$.png"),
        ("/data/" + "very_long/" * 40 + "rgb\n_1.jpg", ".../very_long/very_long/very_long/rgb?_1.jpg"),
    ],
)
def test_names_fit_their_panel(name: str, shown: str) -> None:
    made = drawn(Lookup(SomePairs([pair(np.full((64, 320), 2, np.float32), name)])))
    assert made.axes[0].get_title() == shown
    assert overlaps(made) == []
    assert cut_off(made) == []


@pytest.mark.parametrize(
    ("settings", "title"),
    [(Settings(ks=(4, 16), dense=False), "(K = 16)"), (Settings(ks=(1,), dense_points=9), "(dense)")],
)
def test_the_error_says_its_mean_and_of_what(settings: Settings, title: str) -> None:
    made = drawn(Lookup(constant(2.0), lambda depth: 1.25 * depth), settings)
    assert made.axes[1].get_title() == f"relative error, mean 0.250 {title}"
