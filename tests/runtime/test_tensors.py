"""Images and points as tensors of any library, in the host's memory: the same depths, in kind, and without copies."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import spd
from spd.errors import ImageError, InputError, PointsError
from spd.runtime import Model
from spd.runtime.backend import Backend

WIDTH, HEIGHT = 192, 160


class Dlpack:
    """An array of a library that knows nothing but DLPack."""

    def __init__(self, array: NDArray[Any], device: tuple[int, int] = (1, 0)) -> None:
        self.array, self.device_and_number = array, device

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device_and_number


class Interface:
    """An array of a library that knows numpy's array interface only."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.array, self.__array_interface__ = array, array.__array_interface__


class Standard(Dlpack):
    """An array of a library that follows Python's array API standard."""

    device = "a device"

    def __array_namespace__(self) -> Any:
        def asarray(array: NDArray[Any], *, device: str) -> Standard:
            assert device == self.device
            return Standard(array)

        return SimpleNamespace(asarray=asarray)


class Recorder(Backend):
    """Keeps the images that it is given; depth is u + v."""

    name, precision, height, width, max_points, cache_bytes = "recorder", "fp32", HEIGHT, WIDTH, 512, 1

    def __init__(self) -> None:
        self.images: list[NDArray[np.uint8]] = []

    def encode(self, image: NDArray[np.uint8]) -> Any:
        self.images.append(image)
        return image

    def decode(self, cache: Any, points: NDArray[np.float32]) -> NDArray[np.float32]:
        return points.sum(axis=2)


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy, Dlpack, Interface, Standard])
def test_images_of_all_libraries_on_a_real_model(model: Model, rooms, points: NDArray[np.float64], kind: Any) -> None:
    expected = model.encode(rooms[0]).depth(points)
    with model.encode(kind(rooms[0])) as scene:
        np.testing.assert_array_equal(scene.depth(points), expected)
    half = model.encode(kind(rooms[0][::2, ::2].copy()))
    assert (half.width, half.height) == (96, 80)
    np.testing.assert_array_equal(half.depth(points / 2), model.encode(rooms[0][::2, ::2]).depth(points / 2))


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy, Dlpack, Interface])
def test_an_image_of_the_graphs_size_is_not_copied(kind: Any) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    backend = Recorder()
    Model(backend, None, []).encode(kind(photo))
    assert np.shares_memory(backend.images[0], photo)
    assert backend.images[0].shape == (1, HEIGHT, WIDTH, 3)


def test_an_image_that_is_kept_for_later_is_copied() -> None:
    """As the caller may write the next frame into it, and an evicted scene is encoded again."""
    frame, backend = np.zeros((HEIGHT, WIDTH, 3), np.uint8), Recorder()
    model = Model(backend, None, [], cache_budget=1)
    first = model.encode(frame)
    frame[:] = 1
    model.encode(frame)
    first.depth([(1, 1)])
    assert [image.max() for image in backend.images] == [0, 1, 0]
    assert (model.stats().encodings, model.stats().evictions) == (3, 1)


def test_channels_first_turned_around_is_copied_into_order() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    backend = Recorder()
    Model(backend, None, []).encode(torch.from_numpy(photo.transpose(2, 0, 1).copy()).permute(1, 2, 0))
    assert backend.images[0].flags.c_contiguous
    np.testing.assert_array_equal(backend.images[0][0], photo)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(3, HEIGHT, WIDTH, dtype=torch.uint8), r"\[3, 160, 192\]; expected .*transpose"),
        (torch.zeros(HEIGHT, WIDTH, 3), r"a float32 array \[160, 192, 3\]; expected uint8"),
        (torch.zeros(HEIGHT, WIDTH, 3, dtype=torch.bfloat16), "cannot be copied to the host"),
        (torch.zeros(HEIGHT, WIDTH, 3, device="meta"), "cannot be copied to the host"),
        (SimpleNamespace(__cuda_array_interface__={"shape": (1, 1, 3)}), "on a GPU and has no __dlpack__"),
    ],
    ids=["channels first", "float", "bfloat16", "meta", "no way"],
)
def test_tensors_that_are_no_image(image: Any, message: str) -> None:
    backend = Recorder()
    with pytest.raises(ImageError, match=message) as caught:
        Model(backend, None, []).encode(image)
    assert "\n" not in str(caught.value)
    assert not backend.images


def test_tensors_on_a_gpu_are_copied_by_their_library_where_the_encoder_is_not_on_one() -> None:
    photo, backend = np.full((HEIGHT, WIDTH, 3), 9, np.uint8), Recorder()
    model = Model(backend, None, [])
    for _ in range(2):
        scene = model.encode(Dlpack(photo, (2, 0)))
    assert scene.depth(Dlpack(np.array([[3.0, 4.0]]), (2, 0))).tolist() == [7.0]
    np.testing.assert_array_equal(backend.images[0][0], photo)
    assert model.notes == ["images on a GPU are copied to the host for recorder"]
    with pytest.raises(
        InputError, match=r"^stream is for torch tensors here, .* make it the current one of test_tensors"
    ):
        scene.depth(Dlpack(np.array([[3.0, 4.0]]), (2, 0)), stream=7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int32, torch.float16])
def test_torch_in_torch_out(model: Model, rooms, points: NDArray[np.float64], dtype: torch.dtype) -> None:
    scene, asked = model.encode(rooms[0]), torch.from_numpy(np.floor(points)).to(dtype)
    depth = scene.depth(asked)
    assert (type(depth), depth.dtype, depth.device.type, tuple(depth.shape)) == (
        torch.Tensor,
        torch.float32,
        "cpu",
        (300,),
    )
    np.testing.assert_array_equal(depth.numpy(), scene.depth(np.floor(points)))
    assert isinstance(scene.depth(asked[:0]), torch.Tensor)


def test_other_libraries_get_their_own_or_numpy(model: Model, rooms, points: NDArray[np.float64]) -> None:
    scene, asked = model.encode(rooms[0]), points.astype(np.float32)
    expected = scene.depth(asked)
    own, plain = scene.depth(Standard(asked)), scene.depth(Dlpack(asked))
    assert (type(own), type(plain)) == (Standard, np.ndarray)
    np.testing.assert_array_equal(own.array, expected)
    np.testing.assert_array_equal(plain, expected)
    np.testing.assert_array_equal(np.from_dlpack(expected), expected)


def test_points_that_want_a_gradient_have_none_in_their_depths(model: Model, rooms) -> None:
    depth = model.encode(rooms[0]).depth(torch.ones(2, 2, requires_grad=True))
    assert not depth.requires_grad


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (torch.zeros(3, 3), r"shape \[3, 3\], expected \[K, 2\]"),
        (torch.full((1, 2), torch.nan), r"point 0 is \(nan, nan\)"),
        (torch.zeros(2, 2, dtype=torch.bfloat16), "not numbers"),
        (torch.zeros(2, 2, device="meta"), "not numbers"),
    ],
)
def test_tensors_that_are_no_points(points: Any, message: str) -> None:
    with pytest.raises(PointsError, match=message) as caught:
        Model(Recorder(), None, []).encode(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).depth(points)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("make", [np.empty, torch.empty])
def test_a_ready_buffer_is_filled_and_given_back(model: Model, rooms, points: NDArray[np.float64], make: Any) -> None:
    scene = model.encode(rooms[0])
    out = make(300, dtype=np.float32 if make is np.empty else torch.float32)
    assert scene.depth(torch.from_numpy(points), out=out) is out
    np.testing.assert_array_equal(np.asarray(out), scene.depth(points))
    rows = np.zeros((300, 2), np.float32)
    scene.depth(points, out=rows[:, 1])
    np.testing.assert_array_equal(rows, np.stack([np.zeros(300), scene.depth(points)], axis=1))


def read_only() -> NDArray[np.float32]:
    array = np.zeros(2, np.float32)
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (np.zeros(3, np.float32), r"^out is float32 \[3\], expected float32 \[2\]$"),
        (np.zeros(2), r"^out is float64 \[2\], expected float32 \[2\]$"),
        (torch.zeros(2, 1), r"^out is float32 \[2, 1\], expected float32 \[2\]$"),
        ([0.0, 0.0], r"^out is list \[\], expected float32 \[2\]$"),
        (read_only(), "^out cannot be written to: .*read-only$"),
        (torch.zeros(2, requires_grad=True), "^out cannot be written to: .*grad"),
    ],
)
def test_a_buffer_that_does_not_fit(out: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Model(Recorder(), None, []).encode(np.zeros((9, 9, 3), np.uint8)).depth([(1, 1), (2, 2)], out=out)


def test_a_stream_is_of_no_account_on_a_cpu(model: Model, rooms, points: NDArray[np.float64]) -> None:
    scene = model.encode(torch.from_numpy(rooms[0]), stream=7)
    np.testing.assert_array_equal(scene.depth(torch.from_numpy(points), stream=7), scene.depth(points))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 700), st.integers(1, 700), st.integers(1, 200), st.booleans())
def test_without_checks_the_depths_are_the_same(width: int, height: int, count: int, single: bool) -> None:
    points = np.random.default_rng(count).random((count, 2)) * (width, height) * (1 - 1e-6)
    points = points.astype(np.float32) if single else points
    scene = Model(Recorder(), None, []).encode(np.zeros((height, width, 3), np.uint8))
    np.testing.assert_array_equal(scene.depth(points, check=False), scene.depth(points))


def test_without_checks_no_point_does_harm(cpu_model: Model, rooms, points: NDArray[np.float64]) -> None:
    """On ONNX Runtime, gathering at a NaN fails; elsewhere it may read any memory. The other points are answered."""
    scene, bad = cpu_model.encode(rooms[0]), [(np.nan, 1), (np.inf, -np.inf), (-1e300, 1e300), (-5, 1e6)]
    mixed = np.concatenate([bad, points[:20]])
    kept = mixed.copy()
    depth = scene.depth(mixed, check=False)
    assert np.isfinite(depth).all()
    np.testing.assert_allclose(depth[4:], scene.depth(points[:20]), rtol=1e-5)
    np.testing.assert_array_equal(mixed, kept)


def test_xyz_is_depth_along_the_ray(model: Model, rooms, points: NDArray[np.float64]) -> None:
    scene, camera = model.encode(rooms[0]), (150.0, 151.0, 96.5, 80.5)
    xyz = scene.xyz(points, camera)
    assert (xyz.dtype, xyz.shape) == (np.float32, (300, 3))
    depth = scene.depth(points)
    np.testing.assert_array_equal(xyz[:, 2], depth)
    u, v = xyz[:, 0] / depth * 150 + 96.5, xyz[:, 1] / depth * 151 + 80.5
    np.testing.assert_allclose(np.stack([u, v], axis=1), points, atol=1e-4)
    matrix = torch.tensor([[150, 0, 96.5], [0, 151, 80.5], [0, 0, 1]])
    in_kind = scene.xyz(torch.from_numpy(points), matrix)
    assert isinstance(in_kind, torch.Tensor)
    np.testing.assert_array_equal(in_kind.numpy(), xyz)
    assert np.isnan(scene.xyz([(-1, 0)], camera, outside="nan")).all()
    assert scene.xyz([], camera).shape == (0, 3)
    with pytest.raises(InputError, match="focal lengths above 0"):
        scene.xyz(points, (0, 0, 0, 0))


def test_the_torch_backend_takes_and_gives_them_too(checkpoint: Path, rooms, points: NDArray[np.float64]) -> None:
    with spd.load(checkpoint, size=(160, 192)) as literal:
        scene = literal.encode(torch.from_numpy(rooms[0]))
        depth = scene.depth(torch.from_numpy(points))
        np.testing.assert_array_equal(depth.numpy(), literal.encode(rooms[0]).depth(points))
        assert scene.nbytes is None
        assert literal.stats().bytes is None
