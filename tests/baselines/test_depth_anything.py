"""Depth Anything: the predictor against a direct run of the network and an independent reading of its map."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from transformers import DepthAnythingForDepthEstimation, DPTImageProcessor

from spd.baselines.depth_anything import DenseScene, load_depth_anything, resized_size
from spd.data.rooms import render_room
from spd.errors import ImageError, InputError, PointsError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HEIGHT, WIDTH = 80, 100  # resized to 70 x 84: neither side by the same factor


def read_at(dense: NDArray[np.floating], x: float, y: float) -> float:
    """Bilinear between the centres of pixels (0.5, 0.5), ...; beyond the outermost centres their value."""
    height, width = dense.shape
    x, y = min(max(x - 0.5, 0), width - 1), min(max(y - 0.5, 0), height - 1)
    i, j = min(int(x), max(width - 2, 0)), min(int(y), max(height - 2, 0))
    k, m = min(i + 1, width - 1), min(j + 1, height - 1)
    a, b = x - i, y - j
    return float((1 - b) * ((1 - a) * dense[j, i] + a * dense[j, k]) + b * ((1 - a) * dense[m, i] + a * dense[m, k]))


@pytest.fixture(scope="module")
def photo() -> NDArray[np.uint8]:
    return render_room(3, HEIGHT, WIDTH).image


@pytest.fixture(scope="module")
def points() -> NDArray[np.float64]:
    """All over the photo, its corners and borders among them."""
    points = np.random.default_rng(0).random((60, 2)) * (WIDTH, HEIGHT)
    points[:5] = (0, 0), (WIDTH - 1e-9, HEIGHT - 1e-9), (0.5, 0.5), (0, 40), (50, HEIGHT - 0.25)
    return points


def direct(folder: Path, photo: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The network's map for a photo of WIDTH x HEIGHT, short side 70, without anything of SPD."""
    pixels = np.asarray(Image.fromarray(photo).resize((84, 70), Image.Resampling.BICUBIC)) / 255
    normalised = torch.tensor(((pixels - MEAN) / STD).transpose(2, 0, 1)[None], dtype=torch.float32)
    device = "cuda" if torch.cuda.is_available() else "cpu"  # a GPU rounds differently
    model = DepthAnythingForDepthEstimation.from_pretrained(folder).eval().to(device)
    with torch.no_grad():
        predicted = model(normalised.to(device)).predicted_depth
    return predicted[0].double().cpu().numpy()


def test_metric(metric: Path, photo: NDArray[np.uint8], points: NDArray[np.float64]) -> None:
    predictor = load_depth_anything(metric, size=70)
    scene = predictor.encode(photo)
    dense = direct(metric, photo)
    assert not predictor.relative
    assert scene.dense.shape == dense.shape == (70, 84)
    assert (scene.width, scene.height) == (WIDTH, HEIGHT)
    assert dense.std() > 0.1, "the map is flat: reading it says nothing"
    depth = scene.depth(points)
    assert depth.dtype == np.float32
    expected = [read_at(dense, u * 84 / WIDTH, v * 70 / HEIGHT) for u, v in points]
    np.testing.assert_allclose(depth, expected, rtol=1e-3)
    assert 0 <= depth.min() <= depth.max() <= 20


def test_relative(relative: Path, photo: NDArray[np.uint8], points: NDArray[np.float64]) -> None:
    predictor = load_depth_anything(str(relative), size=70)
    dense = direct(relative, photo)
    depth = predictor.encode(photo).depth(points)
    assert predictor.relative
    expected = np.array([read_at(dense, u * 84 / WIDTH, v * 70 / HEIGHT) for u, v in points])
    assert expected.max() > 2 * expected.min() >= 0
    np.testing.assert_allclose(1 / depth, np.maximum(expected, 1e-6), rtol=1e-3, atol=1e-4)


def test_no_disparity_is_far_and_finite() -> None:
    scene = DenseScene(np.array([[0.0, 2.0]], dtype=np.float32), 2, 1, relative=True)
    np.testing.assert_allclose(scene.depth([(0.5, 0.5), (1.0, 0.5), (1.5, 0.5)]), [1e6, 1, 0.5], rtol=1e-6)


def test_preprocessing_is_that_of_transformers(metric: Path, photo: NDArray[np.uint8]) -> None:
    """Of an image whose short side decides there too; Pillow and torchvision round differently."""
    processor = DPTImageProcessor(
        size={"height": 70, "width": 70},
        keep_aspect_ratio=True,
        ensure_multiple_of=14,
        resample=Image.Resampling.BICUBIC,
        image_mean=MEAN,
        image_std=STD,
    )
    expected = processor(images=Image.fromarray(photo), return_tensors="pt").pixel_values
    got = load_depth_anything(metric, size=70).preprocess(Image.fromarray(photo))
    assert got.shape == expected.shape == (1, 3, 70, 84)
    assert (got.cpu() - expected).abs().max() < 2.01 / 255 / min(STD)


@pytest.mark.parametrize(
    ("width", "height", "size", "expected"),
    [
        (640, 480, 518, (686, 518)),  # 690.7 to the nearest of 686 and 700
        (480, 640, 518, (518, 686)),
        (4000, 3000, 518, (686, 518)),
        (100, 100, 518, (518, 518)),
        (70, 80, 70, (70, 84)),
        (1000, 999, 14, (14, 14)),
    ],
)
def test_resized_size(width: int, height: int, size: int, expected: tuple[int, int]) -> None:
    assert resized_size(width, height, size) == expected


@given(st.integers(1, 9000), st.integers(1, 9000), st.integers(1, 40))
def test_resized_size_keeps_the_aspect(width: int, height: int, patches: int) -> None:
    size = 14 * patches
    new_width, new_height = resized_size(width, height, size)
    assert new_width % 14 == new_height % 14 == 0
    assert min(new_width, new_height) == size
    long, new_long = max(width, height), max(new_width, new_height)
    assert abs(new_long - size * long / min(width, height)) <= 7 + 1e-6


@given(st.data(), st.integers(1, 6), st.integers(1, 6), st.integers(1, 200), st.integers(1, 200))
def test_reading_the_map(data: st.DataObject, map_height: int, map_width: int, height: int, width: int) -> None:
    seed = data.draw(st.integers(0, 99))
    dense = np.random.default_rng(seed).random((map_height, map_width), dtype=np.float32)
    inside = st.floats(0, 1, exclude_max=True, width=32)
    points = [(u * width, v * height) for u, v in data.draw(st.lists(st.tuples(inside, inside), max_size=5))]
    depth = DenseScene(dense, width, height, relative=False).depth(np.array(points).reshape(-1, 2))
    expected = [read_at(dense, u * map_width / width, v * map_height / height) for u, v in points]
    np.testing.assert_allclose(depth, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([(1.0, 2.0, 3.0)], r"points have shape \[1, 3\]"),
        ([0.0, 1.0], r"points have shape \[2\]"),
        ([(1.0, 1.0), (8.0, 1.0)], r"point 1 \(8, 1\) is outside the image of 8 x 4 pixels"),
        ([(-0.1, 1.0)], "is outside"),
        ([(math.nan, 1.0)], "is outside"),
    ],
)
def test_points_are_checked(points: list[tuple[float, ...]], message: str) -> None:
    with pytest.raises(PointsError, match=message):
        DenseScene(np.ones((4, 8), dtype=np.float32), 8, 4, relative=False).depth(points)


def test_images_are_read_as_elsewhere(metric: Path, photo: NDArray[np.uint8], tmp_path: Path) -> None:
    predictor = load_depth_anything(metric, size=70)
    Image.fromarray(photo).save(tmp_path / "a.png")
    np.testing.assert_array_equal(predictor.encode(tmp_path / "a.png").dense, predictor.encode(photo).dense)
    with pytest.raises(ImageError, match="does not exist"):
        predictor.encode(tmp_path / "none.png")


def test_random_weights() -> None:
    """V2 Small as published: 24.8 million parameters, features of every third layer of a ViT-S."""
    predictor = load_depth_anything(None, size=14)
    assert sum(parameter.numel() for parameter in predictor.model.parameters()) == 24_785_089
    assert predictor.model.config.backbone_config.out_indices == [3, 6, 9, 12]
    assert not predictor.relative
    assert not predictor.model.training
    depth = predictor.encode(np.zeros((20, 30, 3), dtype=np.uint8)).depth([(1.0, 1.0), (29.0, 19.0)])
    assert (depth > 0).all()
    assert (depth < 20).all()


@pytest.mark.parametrize("size", [0, -14, 13, 100])
def test_size_is_checked(metric: Path, size: int) -> None:
    with pytest.raises(InputError, match=f"size is {size}, expected a multiple of 14"):
        load_depth_anything(metric, size=size)


def test_importing_is_light() -> None:
    code = "import sys, spd.baselines.depth_anything; print({'torch', 'transformers', 'timm'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
