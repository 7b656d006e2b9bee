"""What `spd.load` answers is what the literal network computes, on every backend that runs on a CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import spd
from spd.bundle import open_bundle
from spd.bundle.gate import TOLERANCES
from spd.preprocess import PAD_COLOUR
from spd.runtime import Model
from spd.runtime.onnx_runtime import OnnxRuntimeBackend
from spd.runtime.openvino_backend import OpenVinoBackend
from spd.runtime.packages import import_openvino

openvino = import_openvino()


def has_bf16() -> bool:
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@pytest.mark.parametrize(
    ("backend", "precision"),
    [
        ("onnxruntime-cpu", "fp32"),
        ("onnxruntime-cpu", "fp16"),
        ("openvino", "fp32"),
        pytest.param("openvino", "bf16", marks=pytest.mark.skipif(not has_bf16(), reason="this CPU has no bfloat16")),
        ("torch", "fp32"),
    ],
)
def test_depths_are_those_of_the_literal_network(
    backend: str, precision: str, exported: Path, checkpoint: Path, literal_depth, rooms, points: NDArray[np.float64]
) -> None:
    path, size = (checkpoint, (160, 192)) if backend == "torch" else (exported, None)
    tolerance = TOLERANCES[precision]
    with spd.load(path, backend, precision=precision, size=size) as model:
        assert (model.backend, model.precision, model.size) == (backend, precision, (160, 192))
        for image in rooms[:2]:
            depth = model.encode(image).depth(points)
            assert (depth.dtype, depth.shape) == (np.float32, (300,))
            error = np.abs(depth / literal_depth(image, points) - 1)
            assert error.max() <= tolerance.max
            assert error.mean() <= tolerance.mean
            # Rounded products would show: float32 is not computed in bfloat16, and bfloat16 is not float32.
            assert (error.max() > 1e-4) == (precision != "fp32")


def test_the_image_is_seen(cpu_model: Model, rooms, points: NDArray[np.float64]) -> None:
    """Other images give other depths: agreement above is not that of a constant."""
    first, second = (cpu_model.encode(image).depth(points) for image in rooms[:2])
    assert np.abs(first / second - 1).max() > 0.05
    assert first.std() > 0.01


def test_an_image_of_twice_the_size_is_halved(
    cpu_model: Model, literal_depth, rooms, points: NDArray[np.float64]
) -> None:
    large = Image.fromarray(rooms[0]).resize((384, 320), Image.Resampling.BICUBIC)
    halved = np.asarray(large.resize((192, 160), Image.Resampling.BILINEAR))
    depth = cpu_model.encode(large).depth(points * 2)
    np.testing.assert_allclose(depth, literal_depth(halved, points), rtol=1e-4)


def test_a_narrow_image_lies_in_the_middle(cpu_model: Model, literal_depth, rooms) -> None:
    narrow = rooms[0][:, :97]
    canvas = np.empty((160, 192, 3), np.uint8)
    canvas[:] = PAD_COLOUR
    canvas[:, 47 : 47 + 97] = narrow
    points = np.random.default_rng(2).random((50, 2)) * (97, 160)
    depth = cpu_model.encode(narrow).depth(points)
    np.testing.assert_allclose(depth, literal_depth(canvas, points + np.array([47, 0])), rtol=1e-4)


def test_path_pillow_image_and_array_are_the_same_image(
    cpu_model: Model, tmp_path: Path, rooms, points: NDArray[np.float64]
) -> None:
    path = tmp_path / "Zimmer 1 ü.png"
    Image.fromarray(rooms[0]).save(path)
    expected = cpu_model.encode(rooms[0]).depth(points)
    for source in (path, str(path), Image.open(path), np.asfortranarray(rooms[0])):
        np.testing.assert_array_equal(cpu_model.encode(source).depth(points), expected)


def test_exif_rotation_turns_the_points_along(
    cpu_model: Model, tmp_path: Path, rooms, points: NDArray[np.float64]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the viewer turns it clockwise
    Image.fromarray(np.rot90(rooms[0])).save(tmp_path / "turned.png", exif=exif)
    scene = cpu_model.encode(tmp_path / "turned.png")
    assert (scene.width, scene.height) == (192, 160)
    np.testing.assert_array_equal(scene.depth(points), cpu_model.encode(rooms[0]).depth(points))


def test_depths_do_not_change_when_asked_again(cpu_model: Model, rooms, points: NDArray[np.float64]) -> None:
    """The result is the caller's: later calls write elsewhere."""
    scene = cpu_model.encode(rooms[0])
    first = scene.depth(points)
    kept = first.copy()
    scene.depth(points[::-1])
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(scene.depth(points), kept)
    first[:] = 0  # writable


def test_the_cache_is_what_the_contract_says(exported: Path) -> None:
    bundle = open_bundle(exported)
    backend = OnnxRuntimeBackend(bundle, "onnxruntime-cpu", "fp16", threads=1)
    cache = backend.encode(np.zeros((1, 160, 192, 3), np.uint8))
    dtypes = {"graph": "tensor(float16)", "float32": "tensor(float)"}
    got = [(name, value.data_type(), tuple(value.shape()), value.device_name()) for name, value in cache.items()]
    outputs = bundle.manifest.contract.encoder_outputs
    assert got == [(spec.name, dtypes[spec.dtype], spec.resolved(1), "cpu") for spec in outputs]


def test_the_cache_on_openvino_is_its_own_tensors(exported: Path, rooms) -> None:
    """As the contract says, and left alone by what is encoded later."""
    bundle = open_bundle(exported)
    backend = OpenVinoBackend(bundle, "fp32", threads=1)
    cache = backend.encode(rooms[0][None])
    outputs = bundle.manifest.contract.encoder_outputs
    assert [
        (name, type(value), tuple(value.shape), value.element_type.to_string()) for name, value in cache.items()
    ] == [(spec.name, openvino.Tensor, spec.resolved(1), "f32") for spec in outputs]
    assert sum(value.byte_size for value in cache.values()) == backend.cache_bytes
    before = {name: value.data.copy() for name, value in cache.items()}
    other = backend.encode(rooms[1][None])
    for name, value in cache.items():
        np.testing.assert_array_equal(value.data, before[name])
        assert np.abs(other[name].data - before[name]).max() > 0
