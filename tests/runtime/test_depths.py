"""What `spd.load` answers is what the literal network computes, on every backend that runs on a CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import spd
from spd.bundle import open_bundle
from spd.preprocess import PAD_COLOUR
from spd.runtime import Model
from spd.runtime.onnx_runtime import OnnxRuntimeBackend

RELATIVE = {"fp32": 1e-4, "fp16": 2e-2}


def backend_options(name: str, exported: Path, checkpoint: Path) -> tuple[Path, dict[str, object]]:
    if name == "torch":
        return checkpoint, {"backend": "torch", "size": (160, 192)}
    return exported, {"backend": "onnxruntime-cpu", "precision": name}


@pytest.mark.parametrize(("name", "precision"), [("fp32", "fp32"), ("fp16", "fp16"), ("torch", "fp32")])
def test_depths_are_those_of_the_literal_network(
    name: str, precision: str, exported: Path, checkpoint: Path, literal_depth, rooms, points: NDArray[np.float64]
) -> None:
    path, options = backend_options(name, exported, checkpoint)
    with spd.load(path, **options) as model:  # type: ignore[arg-type]
        assert (model.precision, model.size) == (precision, (160, 192))
        for image in rooms[:2]:
            depth = model.encode(image).depth(points)
            assert (depth.dtype, depth.shape) == (np.float32, (300,))
            np.testing.assert_allclose(depth, literal_depth(image, points), rtol=RELATIVE[precision])


def test_the_image_is_seen(model: Model, rooms, points: NDArray[np.float64]) -> None:
    """Other images give other depths: agreement above is not that of a constant."""
    first, second = (model.encode(image).depth(points) for image in rooms[:2])
    assert np.abs(first / second - 1).max() > 0.05
    assert first.std() > 0.01


def test_an_image_of_twice_the_size_is_halved(model: Model, literal_depth, rooms, points: NDArray[np.float64]) -> None:
    large = Image.fromarray(rooms[0]).resize((384, 320), Image.Resampling.BICUBIC)
    halved = np.asarray(large.resize((192, 160), Image.Resampling.BILINEAR))
    depth = model.encode(large).depth(points * 2)
    np.testing.assert_allclose(depth, literal_depth(halved, points), rtol=1e-4)


def test_a_narrow_image_lies_in_the_middle(model: Model, literal_depth, rooms) -> None:
    narrow = rooms[0][:, :97]
    canvas = np.empty((160, 192, 3), np.uint8)
    canvas[:] = PAD_COLOUR
    canvas[:, 47 : 47 + 97] = narrow
    points = np.random.default_rng(2).random((50, 2)) * (97, 160)
    depth = model.encode(narrow).depth(points)
    np.testing.assert_allclose(depth, literal_depth(canvas, points + np.array([47, 0])), rtol=1e-4)


def test_path_pillow_image_and_array_are_the_same_image(
    model: Model, tmp_path: Path, rooms, points: NDArray[np.float64]
) -> None:
    path = tmp_path / "Zimmer 1 ü.png"
    Image.fromarray(rooms[0]).save(path)
    expected = model.encode(rooms[0]).depth(points)
    for source in (path, str(path), Image.open(path), np.asfortranarray(rooms[0])):
        np.testing.assert_array_equal(model.encode(source).depth(points), expected)


def test_exif_rotation_turns_the_points_along(model: Model, tmp_path: Path, rooms, points: NDArray[np.float64]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the viewer turns it clockwise
    Image.fromarray(np.rot90(rooms[0])).save(tmp_path / "turned.png", exif=exif)
    scene = model.encode(tmp_path / "turned.png")
    assert (scene.width, scene.height) == (192, 160)
    np.testing.assert_array_equal(scene.depth(points), model.encode(rooms[0]).depth(points))


def test_depths_do_not_change_when_asked_again(model: Model, rooms, points: NDArray[np.float64]) -> None:
    """The result is the caller's: later calls write elsewhere."""
    scene = model.encode(rooms[0])
    first = scene.depth(points)
    kept = first.copy()
    scene.depth(points[::-1])
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(scene.depth(points), kept)
    first[:] = 0  # writable


def test_the_cache_is_what_the_contract_says(model: Model, exported: Path) -> None:
    bundle = open_bundle(exported)
    backend = OnnxRuntimeBackend(bundle, "onnxruntime-cpu", "fp16", threads=1)
    cache = backend.encode(np.zeros((1, 160, 192, 3), np.uint8))
    dtypes = {"graph": "tensor(float16)", "float32": "tensor(float)"}
    got = [(name, value.data_type(), tuple(value.shape()), value.device_name()) for name, value in cache.items()]
    outputs = bundle.manifest.contract.encoder_outputs
    assert got == [(spec.name, dtypes[spec.dtype], spec.resolved(1), "cpu") for spec in outputs]
