"""Images that are on the GPU already go to the encoder by a copy on the device, in the order of the caller's stream."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tensorrt_support import EDGES, add_engines, only_loaded

import spd
from spd.errors import BackendError, ImageError
from spd.runtime import Model


class OnGpu:
    """An array in the stand-in's device memory, as other libraries show theirs; written in a stream of its own."""

    def __init__(self, array: NDArray[Any], *, names_stream: bool = True, dlpack: bool = True) -> None:
        from cuda.core import Device

        device = Device(0)
        device.set_current()
        self.array, self.dlpack, self.number = array, dlpack, 0
        self.stream = device.create_stream()
        self.buffer = device.memory_resource.allocate(array.nbytes, stream=self.stream)
        self.__cuda_array_interface__: dict[str, Any] = {
            "version": 3,
            "shape": array.shape,
            "typestr": array.dtype.str,
            "strides": None,
            "data": (int(self.buffer.handle), False),
        }
        if names_stream:
            self.__cuda_array_interface__["stream"] = int(self.stream.handle)
        self.write(array)

    def write(self, array: NDArray[Any]) -> None:
        """Fill it, by work in its stream that nobody waits for."""
        from cuda.core import Buffer

        self.source = np.ascontiguousarray(array)
        source = Buffer.from_handle(self.source.ctypes.data, array.nbytes, owner=self.source)
        self.buffer.copy_from(source, stream=self.stream)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, self.number)

    def __dlpack__(self, *, dl_device: Any = None, **options: Any) -> Any:
        if not self.dlpack or dl_device != (1, 0):
            raise BufferError("is on a GPU")
        self.stream.sync()
        return self.array.copy().__dlpack__()


@pytest.fixture
def loaded(tensorrt_any: Any, bundle: Path) -> Iterator[Model]:
    with only_loaded(add_engines(bundle), tensorrt_any) as model:
        yield model
        del model


@pytest.mark.parametrize("how", ["its own", "its own, named by the caller", "as a handle"])
def test_no_byte_of_the_image_comes_to_the_host(
    loaded: Model, tensorrt_any: Any, model: Model, rooms, points, how: str
) -> None:
    """Plain, captured and launched. The stand-in complains if the copy is not ordered after the write."""
    with loaded.encode(rooms[0]) as first:  # its memory stays for the next scene
        first.depth(points[:10])
    for room in rooms:
        image = OnGpu(room, names_stream=how == "its own")
        stream = {"its own": None, "as a handle": int(image.stream.handle)}.get(how, image.stream)
        tensorrt_any.counts.copies.clear()
        before = tensorrt_any.counts.events["synchronisations"]
        scene = loaded.encode(image, stream=stream)
        assert tensorrt_any.counts.events["synchronisations"] == before, "encode waits for nothing"
        depth = scene.depth(points[:10])
        np.testing.assert_allclose(depth, model.encode(room).depth(points[:10]), rtol=1e-5)
        sizes = tensorrt_any.counts.copied("device-to-device")
        assert (sizes[0], len(sizes)) == (room.nbytes, 2), "the image, and the cache to its scene"
        assert tensorrt_any.counts.copied("host-to-device") == [room.nbytes, 16 * 8], "the test's own, and the points"
        scene.close()
    assert loaded.notes == []


def test_the_caller_may_overwrite_the_image_at_once(loaded: Model, model: Model, rooms, points) -> None:
    image = OnGpu(rooms[0])
    scene = loaded.encode(image)
    image.write(rooms[1])
    other = loaded.encode(image)
    for each, room in ((scene, rooms[0]), (other, rooms[1])):
        np.testing.assert_allclose(each.depth(points[:10]), model.encode(room).depth(points[:10]), rtol=1e-5)


def test_an_image_that_names_no_stream_is_ordered_after_the_default_one(
    loaded: Model, model: Model, rooms, points
) -> None:
    image = OnGpu(rooms[0], names_stream=False)
    image.stream.sync()
    np.testing.assert_allclose(
        loaded.encode(image).depth(points[:10]), model.encode(rooms[0]).depth(points[:10]), rtol=1e-5
    )


def test_another_size_is_fitted_on_the_host_with_one_note(loaded: Model, model: Model, rooms, points) -> None:
    small = np.ascontiguousarray(rooms[0][:100, :90])
    asked = points[:10] * 0.4
    for _ in range(2):
        np.testing.assert_allclose(
            loaded.encode(OnGpu(small)).depth(asked), model.encode(small).depth(asked), rtol=1e-5
        )
    (note,) = loaded.notes
    assert note.startswith("images on the GPU that are not contiguous uint8 [160, 192, 3] are copied to the host")


def test_rows_that_are_not_contiguous_are_copied_to_the_host(loaded: Model, model: Model, rooms, points) -> None:
    image = OnGpu(rooms[0])
    image.__cuda_array_interface__["strides"] = (192 * 4, 4, 1)
    depth = loaded.encode(image).depth(points[:10])
    np.testing.assert_allclose(depth, model.encode(rooms[0]).depth(points[:10]), rtol=1e-5)
    assert len(loaded.notes) == 1
    image.__cuda_array_interface__["strides"] = (192 * 3, 3, 1)
    loaded.encode(image)
    assert len(loaded.notes) == 1


def test_an_image_on_another_gpu_is_copied_to_the_host(loaded: Model, model: Model, rooms, points) -> None:
    """Neither its stream nor its memory is this GPU's."""
    image = OnGpu(rooms[0])
    image.number = 1
    depth = loaded.encode(image).depth(points[:10])
    np.testing.assert_allclose(depth, model.encode(rooms[0]).depth(points[:10]), rtol=1e-5)
    assert loaded.notes == ["images on GPU 1 are copied to the host, as the model is on GPU 0"]


def test_under_a_budget_the_image_is_kept_on_the_host(tensorrt_11: Any, bundle: Path, rooms, points) -> None:
    with spd.load(add_engines(bundle), cache_budget="1GiB") as small:
        scene = small.encode(OnGpu(rooms[0]))
        np.testing.assert_array_equal(scene.depth(points[:5]), small.encode(rooms[0]).depth(points[:5]))
        assert small.notes == ["images on the GPU are copied to the host, where a cache_budget keeps them"]
        scene.close()


def test_an_image_that_cannot_come_to_the_host_says_so(loaded: Model, rooms) -> None:
    with pytest.raises(ImageError, match=r"^the image cannot be copied to the host \(is on a GPU\)$"):
        loaded.encode(OnGpu(rooms[0][:10], dlpack=False))


@pytest.mark.parametrize("stream", ["main", 1.5, True])
def test_what_is_no_stream(loaded: Model, rooms, stream: Any) -> None:
    with pytest.raises(spd.errors.InputError, match=r"stream is (str|float|bool), expected a CUDA stream: its handle"):
        loaded.encode(OnGpu(rooms[0]), stream=stream)


def test_points_on_the_gpu_are_copied_to_the_host(loaded: Model, rooms, points) -> None:
    scene = loaded.encode(rooms[0])
    expected = scene.depth(points[:10])
    np.testing.assert_array_equal(scene.depth(OnGpu(points[:10])), expected)


def test_it_says_how_many_graphs_it_has(loaded: Model, tensorrt_any: Any, rooms) -> None:
    stats = loaded.stats()
    assert (stats.graphs, stats.fallbacks, stats.scenes, stats.bytes) == (0, 0, 0, 0)
    loaded.warm_up(points=EDGES)
    events = tensorrt_any.counts.events
    before = events.copy()
    with loaded.encode(rooms[0]) as scene:
        for count in EDGES:
            scene.depth(np.ones((count, 2)))
        assert loaded.stats().bytes == scene.nbytes
        assert loaded.stats().scenes == 1
    assert events["enqueues"] == before["enqueues"], "all is launched after a warm-up"
    assert loaded.stats().graphs == 1 + len(EDGES)
    assert loaded.stats().fallbacks == 0


def test_a_graph_that_cannot_be_captured_counts_as_a_fallback(loaded: Model, tensorrt_any: Any) -> None:
    tensorrt_any.faults.capture = 1
    loaded.warm_up(points=(3,))
    assert (loaded.stats().graphs, loaded.stats().fallbacks) == (1, 1)


def test_a_gpu_that_is_not_there(tensorrt_11: Any, bundle: Path, monkeypatch: pytest.MonkeyPatch, rooms) -> None:
    monkeypatch.setattr("spd.runtime.devices.gpus", lambda: 1)
    add_engines(bundle)
    with pytest.raises(BackendError, match=r"^device is 1, expected the number of a GPU from 0 to 0$"):
        spd.load(bundle, device=1)
    with spd.load(bundle, device=0) as model:
        assert model.backend == "tensorrt"
    monkeypatch.setattr("spd.runtime.devices.gpus", lambda: 2)
    with pytest.raises(BackendError, match=r"no backend can run .* here: .*device_id must be within"):
        spd.load(bundle, device=1)
