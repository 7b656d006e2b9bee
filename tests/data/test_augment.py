"""Augmentation against cameras: what a picture shows and how far it is must stay true to each other."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from spd.data import augment
from spd.data.augment import CENTRED, SCALES, Placement, jitter_colours, place
from spd.data.pairs import Pair
from spd.preprocess import PAD_COLOUR, Letterbox

FOCAL = 100.0
NEAR = 2.0

scales = st.floats(*SCALES)
shares = st.floats(0, 1)
slopes = st.floats(-0.5, 0.5)


def colours(x: npt.NDArray[np.floating], y: npt.NDArray[np.floating]) -> npt.NDArray[np.uint8]:
    """Paint of the plane: red grows with X, green with Y, in metres; blue says that there is paint."""
    red, green = (np.clip(128 + 40 * metres, 0, 255) for metres in (x, y))
    return np.stack([red, green, np.full_like(red, 255)], axis=-1).round().astype(np.uint8)


def photographed(width: int, height: int, slope: tuple[float, float], nearer: float = 1.0) -> Pair:
    """What a pinhole camera of `FOCAL` pixels sees of a painted plane Z = `NEAR` + slope . (X, Y), moved to Z / nearer.

    The ray of pixel (u, v) is (X, Y) = Z (u - c_u, v - c_v) / f.
    """
    ray_x, ray_y = np.meshgrid(
        (np.arange(width) + 0.5 - width / 2) / FOCAL, (np.arange(height) + 0.5 - height / 2) / FOCAL
    )
    depth = NEAR / (nearer - slope[0] * ray_x - slope[1] * ray_y)
    return Pair(colours(depth * ray_x, depth * ray_y), depth.astype(np.float32), "plane")


@settings(deadline=None, max_examples=30)
@given(scales, slopes, slopes)
def test_an_enlarged_picture_is_that_of_a_nearer_scene(s: float, a: float, b: float) -> None:
    placed = place(photographed(160, 120, (a, b)), 120, 160, Placement(s, 0.5, 0.5, mirrored=False))
    nearer = photographed(160, 120, (a, b), nearer=s)
    shown = placed.depth > 0
    assert shown.mean() > min(1, s * s) - 0.03
    # Resizing to whole pixels and centring on them moves a pixel by less than 2; the paint changes by 1 level a pixel.
    assert np.abs(placed.depth / nearer.depth - 1)[shown].max() < 0.03
    assert np.abs(placed.image.astype(int) - nearer.image)[shown][:, :2].max() <= 5


def test_a_wall_in_a_picture_enlarged_by_a_fifth_is_a_sixth_nearer() -> None:
    placed = place(photographed(160, 120, (0, 0)), 120, 160, Placement(1.2, 0.5, 0.5, mirrored=False))
    assert np.abs(placed.depth - NEAR / 1.2).max() < 1e-6


def encoded(width: int, height: int) -> Pair:
    """A picture whose colour says the column and the row, and whose depth in metres says both."""
    column, row = np.meshgrid(np.arange(width), np.arange(height))
    image = np.stack([column, row, np.full_like(row, 255)], axis=-1).astype(np.uint8)
    return Pair(image, (1 + column + 1000 * row).astype(np.float32), "encoded")


sides = st.integers(8, 200)
placements = st.builds(Placement, scales, shares, shares, st.booleans())


@settings(deadline=None)
@given(sides, sides, st.integers(16, 128), st.integers(16, 128), placements)
def test_colour_and_depth_stay_together(w: int, h: int, width: int, height: int, placement: Placement) -> None:
    placed = place(encoded(w, h), height, width, placement)
    assert placed.image.shape == (height, width, 3)
    assert placed.image.dtype == np.uint8
    assert placed.depth.shape == (height, width)
    assert placed.depth.dtype == np.float32
    shown = placed.depth > 0
    assert (placed.image[~shown] == PAD_COLOUR).all()
    row, column = np.divmod(np.round(placed.depth * np.float32(placement.scale)) - 1, 1000)
    # Nearest against bilinear: a source pixel of difference, or as many as one pixel of the result covers.
    fit = Letterbox.fit(w, h, width, height)
    reach = 1 + np.ceil(1 / (np.array(fit.scale) * placement.scale))
    assert np.abs(placed.image[..., 0] - column)[shown].max() <= reach[0]
    assert np.abs(placed.image[..., 1] - row)[shown].max() <= reach[1]


@settings(deadline=None)
@given(placements)
def test_no_depth_is_made_up(placement: Placement) -> None:
    depth = np.random.default_rng(0).choice(np.array([0, 1, 2, 5], np.float32), (30, 40))
    placed = place(Pair(encoded(40, 30).image, depth, ""), 64, 64, placement)
    assert {*np.round(placed.depth * np.float32(placement.scale), 4).ravel()} <= {0, 1, 2, 5}


@settings(deadline=None)
@given(st.sampled_from([SCALES[0], 1.0, SCALES[1]]), shares)
def test_mirrored_u_is_the_width_minus_u(s: float, top: float) -> None:
    plain, mirrored = (place(encoded(80, 60), 60, 80, Placement(s, 0.5, top, mirrored=is_so)) for is_so in (0, 1))  # type: ignore[arg-type]
    assert (mirrored.image == plain.image[:, ::-1]).all()
    assert (mirrored.depth == plain.depth[:, ::-1]).all()


@settings(deadline=None)
@given(scales, shares, shares)
def test_where_the_picture_lies(s: float, left: float, top: float) -> None:
    placed = place(encoded(96, 64), 64, 96, Placement(s, left, top, mirrored=False))
    rows, columns = np.nonzero(placed.depth)
    for found, side, share in ((columns, 96, left), (rows, 64, top)):
        free = side - round(side * s)
        if free >= 0:  # padded
            assert found.min() == int(free * share)
            assert found.max() == found.min() + side - free - 1
        else:  # cropped: nothing is padded
            assert (found.min(), found.max()) == (0, side - 1)


@settings(deadline=None)
@given(sides, sides, st.integers(16, 128), st.integers(16, 128))
def test_centred_is_what_the_runtime_does(w: int, h: int, width: int, height: int) -> None:
    pair = encoded(w, h)
    letterbox = Letterbox.fit(w, h, width, height)
    placed = place(pair, height, width)
    assert (placed.image == letterbox.apply(Image.fromarray(pair.image))).all()
    assert (placed.depth > 0).sum() == letterbox.resized_width * letterbox.resized_height


@settings(deadline=None)
@given(st.sampled_from([1, 2]), st.sampled_from([0.8, 1.0]))
def test_a_part_is_shown_as_large_as_in_the_whole(enlarged: int, s: float) -> None:
    """A network's image that the part alone would fill must not enlarge it: it would look nearer than it is."""
    whole = photographed(80, 60, (0.2, 0.1))
    part = Pair(whole.image[10:50, 10:70], whole.depth[10:50, 10:70], "", cut_from=(60, 80))
    placement = Placement(s, 0.5, 0.5, mirrored=False)
    placed, expected = (place(pair, 60 * enlarged, 80 * enlarged, placement) for pair in (part, whole))
    shown = placed.depth > 0
    assert shown.sum() == (40 * s * enlarged) * (60 * s * enlarged)
    assert (placed.depth == expected.depth)[shown].all()
    assert np.abs(placed.image.astype(int) - expected.image)[shown].max() <= 1  # by the borders


def test_placements_are_drawn_from_the_paper_s_ranges() -> None:
    drawn = [Placement.draw(np.random.default_rng(seed)) for seed in range(2000)]
    values = np.array([[one.scale, one.left, one.top, one.mirrored] for one in drawn], dtype=float)
    assert values.mean(axis=0) == pytest.approx([1.0, 0.5, 0.5, 0.5], abs=0.03)
    assert (values.min(axis=0) >= [0.8, 0, 0, 0]).all()
    assert (values.max(axis=0) <= [1.2, 1, 1, 1]).all()
    assert values.std(axis=0)[:3] == pytest.approx(np.array([0.4, 1, 1]) / np.sqrt(12), rel=0.05)
    assert CENTRED.scale == 1


@pytest.fixture
def photo() -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)


def test_colours_depend_on_the_generator_alone(photo: npt.NDArray[np.uint8]) -> None:
    before = photo.copy()
    one, same, other = (jitter_colours(photo, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert (photo == before).all()
    assert (one == same).all()
    assert (one != other).any()
    assert (one != photo).any()
    assert one.shape == photo.shape
    assert one.dtype == np.uint8


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 255))
def test_a_grey_wall_stays_grey_and_within_the_brightness(seed: int, level: int) -> None:
    """Contrast is about the mean, saturation and hue about grey: none of the three changes a grey wall."""
    wall = np.full((8, 8, 3), level, np.uint8)
    found = jitter_colours(wall, np.random.default_rng(seed)).astype(int)
    assert (found == found[0, 0, 0]).all()
    assert 0.8 * level - 2 <= found[0, 0, 0] <= min(255, 1.2 * level) + 2


def brightness(image: npt.NDArray[np.floating]) -> float:
    return float(image.mean())


def contrast(image: npt.NDArray[np.floating]) -> float:
    return float(image.mean(axis=2).std())


def saturation(image: npt.NDArray[np.floating]) -> float:
    return float((image.max(axis=2) - image.min(axis=2)).mean())


@pytest.mark.parametrize(
    ("name", "measure"), [("BRIGHTNESS", brightness), ("CONTRAST", contrast), ("SATURATION", saturation)]
)
def test_each_change_by_itself(
    name: str, measure: Callable[..., float], monkeypatch: pytest.MonkeyPatch, photo: npt.NDArray[np.uint8]
) -> None:
    """The measure is multiplied by what is drawn, evenly from 0.8 to 1.2; the photo's middle levels do not clip."""
    for other in {"BRIGHTNESS", "CONTRAST", "SATURATION", "HUE"} - {name}:
        monkeypatch.setattr(augment, other, 0.0)
    middle = (photo // 4 + 90).astype(np.uint8)
    ratios = [
        measure(jitter_colours(middle, np.random.default_rng(seed)).astype(float)) / measure(middle.astype(float))
        for seed in range(60)
    ]
    assert min(ratios) == pytest.approx(0.8, abs=0.03)
    assert max(ratios) == pytest.approx(1.2, abs=0.03)


def test_hue_turns_red_by_at_most_36_degrees(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of the circle: pure red (0 degrees) gains 255 * 36 / 60 = 153 of green or of blue."""
    for other in ("BRIGHTNESS", "CONTRAST", "SATURATION"):
        monkeypatch.setattr(augment, other, 0.0)
    red = np.zeros((2, 2, 3), np.uint8)
    red[..., 0] = 255
    turned = np.array([jitter_colours(red, np.random.default_rng(seed))[0, 0] for seed in range(60)], dtype=int)
    assert (turned[:, 0] >= 254).all()
    assert turned[:, 1:].max(axis=0) == pytest.approx([153, 153], abs=12)
    assert turned[:, 1:].max() <= 155
