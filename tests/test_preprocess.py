"""The letterbox, and how it carries points along."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from spd.images import read_image
from spd.preprocess import PAD_COLOUR, Letterbox, inside

RNG = np.random.default_rng(0)


def test_imports_no_frameworks() -> None:
    code = "import sys, spd.preprocess; sys.exit(bool({'torch', 'timm', 'onnx', 'tensorrt'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


SIDES = st.integers(1, 6000)
GRAPH_SIDES = st.integers(1, 40).map(lambda n: 32 * n)


@given(SIDES, SIDES, GRAPH_SIDES, GRAPH_SIDES)
def test_letterbox_geometry(image_width: int, image_height: int, width: int, height: int) -> None:
    box = Letterbox.fit(image_width, image_height, width, height)
    scale = min(width / image_width, height / image_height)
    ideal = np.array([image_width, image_height]) * scale
    resized = np.array([box.resized_width, box.resized_height])
    assert (resized >= 1).all()
    assert (resized <= (width, height)).all()
    assert (resized == (width, height)).any()
    assert ((np.abs(resized - ideal) <= 0.5 + 1e-9) | (resized == 1)).all()
    right, bottom = np.array([width, height]) - box.pad - resized
    assert 0 <= right - box.pad[0] <= 1
    assert 0 <= bottom - box.pad[1] <= 1
    corners = box.to_graph(np.array([[0, 0], [image_width, image_height]]))
    np.testing.assert_array_equal(corners, [box.pad, box.pad + resized])


@given(SIDES, SIDES, GRAPH_SIDES, GRAPH_SIDES, st.floats(0, 1), st.floats(0, 1))
def test_letterbox_round_trip(iw: int, ih: int, width: int, height: int, u: float, v: float) -> None:
    box = Letterbox.fit(iw, ih, width, height)
    points = np.array([[u * iw, v * ih]])
    graph = box.to_graph(points)
    assert graph.dtype == np.float32
    # float32 holds the graph's coordinates to 2^-24 of the graph's side, the image's side once mapped back
    tolerance = 2.0**-23 * np.array([width, height]) / box.scale
    assert (np.abs(box.to_image(graph) - points) <= tolerance + 1e-9).all()


def test_letterbox_of_the_same_size_is_the_identity() -> None:
    photo = RNG.integers(0, 256, (64, 96, 3), dtype=np.uint8)
    box = Letterbox.fit(96, 64, 96, 64)
    applied = box.apply(read_image(photo))
    np.testing.assert_array_equal(applied, photo)
    assert applied.flags.c_contiguous
    points = RNG.random((10, 2)).astype(np.float32) * 64
    np.testing.assert_array_equal(box.to_graph(points), points)


@pytest.mark.parametrize("size", [(1500, 300), (300, 1500), (1, 5000), (5000, 1), (37, 23), (1, 1)])
def test_letterbox_pads_with_the_mean_colour(size: tuple[int, int]) -> None:
    box = Letterbox.fit(*size, 640, 480)
    applied = box.apply(Image.new("RGB", size, (255, 0, 255)))
    assert applied.shape == (480, 640, 3)
    shown = (applied == (255, 0, 255)).all(axis=2)
    assert shown.sum() == box.resized_width * box.resized_height
    assert (applied[~shown] == PAD_COLOUR).all()


@pytest.mark.parametrize("size", [(250, 130), (1000, 400), (100, 200)])
def test_points_and_pixels_move_together(size: tuple[int, int]) -> None:
    """A ramp's value at a graph pixel's centre is the ramp at the image point that `to_image` gives."""
    width, height = size
    ramp = np.zeros((height, width, 3), np.uint8)
    ramp[..., 0] = (np.arange(width) + 0.5) / width * 255
    ramp[..., 1] = ((np.arange(height) + 0.5) / height * 255)[:, None]
    box = Letterbox.fit(width, height, 320, 224)
    applied = box.apply(Image.fromarray(ramp))
    centre = np.stack(np.meshgrid(np.arange(320) + 0.5, np.arange(224) + 0.5), axis=-1).reshape(-1, 2)
    points = box.to_image(centre)
    shown = inside(points, width, height)
    assert shown.sum() == box.resized_width * box.resized_height
    expected = points[shown] / size * 255
    assert np.abs(applied.reshape(-1, 3)[shown, :2] - expected).max() < 3


def test_inside() -> None:
    points = np.array([[0, 0], [4.999, 2.999], [5, 0], [0, 3], [-0.001, 1], [np.nan, 1], [np.inf, 1]])
    assert inside(points, 5, 3).tolist() == [True, True, False, False, False, False, False]
    assert inside(np.zeros((0, 2)), 5, 3).shape == (0,)
