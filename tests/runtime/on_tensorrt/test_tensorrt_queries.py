"""What the TensorRT backend answers, what it moves and what it allocates, on the stand-ins of both versions."""

from __future__ import annotations

import gc
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tensorrt_support import EDGES, add_engines, nothing_left, only_loaded

import spd
from spd.bundle import open_bundle
from spd.errors import CudaError, SPDError
from spd.runtime import Model
from spd.runtime.backend import cache_nbytes

IMAGE_BYTES = 160 * 192 * 3


@pytest.fixture
def engines(tensorrt_any: Any, bundle: Path) -> Path:
    return add_engines(bundle)


@pytest.fixture
def loaded(engines: Path, tensorrt_any: Any) -> Iterator[Model]:
    with only_loaded(engines, tensorrt_any) as model:
        yield model
        del model


def size(model: Model) -> int:
    """Bytes of one scene, with what aligns its tensors."""
    assert model._residency is not None
    assert model.manifest is not None
    size = model._residency.backend.cache_bytes
    assert size is not None
    assert (
        0
        <= size - cache_nbytes(model.manifest.contract, model.precision)
        < 256 * len(model.manifest.contract.encoder_outputs)
    )
    return size


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_depths_are_those_of_onnxruntime(
    tensorrt_any: Any, bundle: Path, rooms, points: NDArray[np.float64], precision: str
) -> None:
    """The stand-in computes with ONNX Runtime too: to the bit, but for the padding of K."""
    add_engines(bundle, precision)
    with (
        spd.load(bundle, precision=precision) as model,
        spd.load(bundle, "onnxruntime-cpu", precision=precision) as cpu,
    ):
        assert (model.backend, model.precision) == ("tensorrt", precision)
        assert model.notes == []
        for room in rooms[:2]:
            scene, expected = model.encode(room), cpu.encode(room).depth(points)
            for _ in range(3):  # plain, captured, launched
                np.testing.assert_allclose(scene.depth(points), expected, rtol=1e-5 if precision == "fp32" else 5e-3)


def test_bfloat16(tensorrt_11: Any, bundle: Path, literal_depth, rooms, points: NDArray[np.float64]) -> None:
    add_engines(bundle, "bf16")
    with spd.load(bundle) as model:
        assert (model.backend, model.precision) == ("tensorrt", "bf16")
        depth = model.encode(rooms[0]).depth(points[:20])
    np.testing.assert_allclose(depth, literal_depth(rooms[0], points[:20]), rtol=5e-2)


@pytest.mark.parametrize("count", [0, 1, 4, 5, 16, 17, 47, 48, 49, 96, 97])
def test_every_count_of_points(loaded: Model, model: Model, rooms, points: NDArray[np.float64], count: int) -> None:
    """At the borders of buckets and beyond the largest."""
    scene = loaded.encode(rooms[0])
    depth = scene.depth(points[:count])
    assert (depth.shape, depth.dtype) == ((count,), np.float32)
    np.testing.assert_allclose(depth, model.encode(rooms[0]).depth(points[:count]), rtol=1e-5)


def test_only_image_points_and_depth_travel(loaded: Model, tensorrt_any: Any, rooms, points) -> None:
    counts = tensorrt_any.counts
    scene = loaded.encode(rooms[0])
    for count, padded in ((3, 4), (5, 16), (48, 48)):
        for _ in range(3):
            scene.depth(points[:count])
            travelled = [(copy.kind, copy.bytes) for copy in counts.copies]
            assert travelled[-2:] == [("host-to-device", padded * 8), ("device-to-host", padded * 4)]
            if travelled[:-2]:
                image, cache = travelled[:-2]
                assert image == ("host-to-device", IMAGE_BYTES)
                assert cache == ("device-to-device", size(loaded)), "to the scene's memory"
            counts.copies.clear()


def test_encode_does_not_wait(loaded: Model, tensorrt_any: Any, model: Model, rooms, points) -> None:
    """Neither does the query between encoder and decoder; and it is the first that waits at all."""
    events, copies = tensorrt_any.counts.events, tensorrt_any.counts.copies
    with loaded.encode(rooms[1]) as first:  # its memory stays for the next scene
        first.depth(points[:10])
    copies.clear()
    before = events["synchronisations"]
    scene = loaded.encode(rooms[0])
    assert (events["synchronisations"], copies) == (before, []), "the encoder has not even begun"
    depth = scene.depth(points[:10])
    assert events["synchronisations"] == before + 1
    np.testing.assert_allclose(depth, model.encode(rooms[0]).depth(points[:10]), rtol=1e-5)


def test_what_measures_time_can_wait(loaded: Model, tensorrt_any: Any, rooms) -> None:
    scene = loaded.encode(rooms[0])
    tensorrt_any.counts.copies.clear()
    scene.wait()
    copies = [(copy.kind, copy.bytes) for copy in tensorrt_any.counts.copies]
    assert copies == [("host-to-device", IMAGE_BYTES), ("device-to-device", size(loaded))]
    tensorrt_any.faults.execution = 1
    failing = loaded.encode(rooms[0])
    with pytest.raises(CudaError, match="sync failed for the encoder"):
        failing.wait()
    failing.close()
    with pytest.raises(SPDError, match="the scene is closed"):
        failing.wait()


def test_a_lane_has_no_memory_for_images_that_go_together(bundle: Path, tensorrt_11: Any, rooms) -> None:
    """A profile for several images is somebody else's."""
    taken = []
    for folder, max_batch in ((bundle, 1), (Path(shutil.copytree(bundle, bundle.parent / "eight")), 8)):
        add_engines(folder, max_batch=max_batch)
        with spd.load(folder, backend="tensorrt") as model:
            assert model.encode(rooms[0]).depth([(1, 1)]).shape == (1,)
            taken.append(tensorrt_11.live_bytes)
        del model
        gc.collect()
    assert taken[0] == taken[1]


def test_images_in_a_row_do_not_overwrite_each_other(loaded: Model, model: Model, rooms, points) -> None:
    """The staging of an image is used again only after the copy of the last one."""
    scenes = [loaded.encode(room) for room in rooms]
    for scene, room in zip(scenes, rooms, strict=True):
        np.testing.assert_allclose(scene.depth(points[:10]), model.encode(room).depth(points[:10]), rtol=1e-5)


def test_a_scene_is_copied_in_when_another_was_asked_last(
    loaded: Model, tensorrt_any: Any, model: Model, rooms, points
) -> None:
    expected = [model.encode(room).depth(points[:10]) for room in rooms[:2]]
    scenes = [loaded.encode(room) for room in rooms[:2]]
    scenes[1].depth(points[:10])
    for which, copies in ((1, 0), (0, 1), (0, 0), (1, 1), (0, 1)):
        tensorrt_any.counts.copies.clear()
        np.testing.assert_allclose(scenes[which].depth(points[:10]), expected[which], rtol=1e-5)
        assert tensorrt_any.counts.copied("device-to-device") == [size(loaded)] * copies


def test_a_graph_per_bucket_after_one_plain_enqueue(loaded: Model, tensorrt_any: Any, rooms, points) -> None:
    events = tensorrt_any.counts.events
    scene = loaded.encode(rooms[0])
    for count in (1, 10, 30):
        for turn, (enqueues, captures, launches) in enumerate([(1, 0, 0), (1, 1, 1), (0, 0, 1), (0, 0, 1)]):
            before = events.copy()
            scene.depth(points[: count + turn % 2])
            after = [events[name] - before[name] for name in ("enqueues", "captures", "launches")]
            assert after == [enqueues, captures, launches]


def test_nothing_is_allocated_in_steady_state(loaded: Model, tensorrt_any: Any, rooms, points) -> None:
    """Neither by queries, nor by a loop over images that closes each scene."""

    def one(room: NDArray[np.uint8]) -> None:
        with loaded.encode(room) as scene:
            for count in (1, 10, 30, 60):
                scene.depth(points[:count])

    for room in rooms:
        one(room)
    events, live = tensorrt_any.counts.events, tensorrt_any.live_buffers
    before = events.copy()
    for room in rooms * 2:
        one(room)
    for name in ("allocations", "captures", "live_contexts", "live_graphs"):
        assert events[name] == before[name], name
    assert events["launches"] > before["launches"]
    assert tensorrt_any.live_buffers == live


def test_the_next_scene_takes_over_memory_and_graphs(
    loaded: Model, tensorrt_any: Any, model: Model, rooms, points
) -> None:
    events, live = tensorrt_any.counts.events, []
    for room in rooms:
        before = events.copy()
        with loaded.encode(room) as scene:
            depth = [scene.depth(points[:10]) for _ in range(2)]
        live.append(tensorrt_any.live_buffers)
    assert events["launches"] - before["launches"] == 3, "the encoder's and the decoder's"
    assert events["enqueues"] == before["enqueues"]
    assert live == live[:1] * 3
    np.testing.assert_allclose(depth, [model.encode(rooms[2]).depth(points[:10])] * 2, rtol=1e-5)


def test_scenes_do_not_mix(loaded: Model, model: Model, rooms, points: NDArray[np.float64]) -> None:
    expected = [model.encode(room).depth(points) for room in rooms]
    scenes = [loaded.encode(room) for room in rooms]
    for _ in range(3):
        for scene, depth in zip(scenes, expected, strict=True):
            np.testing.assert_allclose(scene.depth(points), depth, rtol=1e-5)
    scenes[1].close()
    again = loaded.encode(rooms[0])
    for scene, depth in ((scenes[2], expected[2]), (again, expected[0]), (scenes[0], expected[0])):
        np.testing.assert_allclose(scene.depth(points), depth, rtol=1e-5)


def test_closed_scenes_give_back_their_memory_but_for_two_pieces(loaded: Model, tensorrt_any: Any, rooms) -> None:
    """A scene is one piece of device memory, and nothing else; also when it is closed while it is being encoded."""
    empty, events = tensorrt_any.live_bytes, tensorrt_any.counts.events
    contexts = events["live_contexts"]
    first = loaded.encode(rooms[0])
    scenes = [loaded.encode(room) for room in rooms * 2]
    assert tensorrt_any.live_bytes - empty == 7 * size(loaded)
    for scene in (first, *scenes) * 2:
        scene.depth([(1, 1)])
    assert (events["live_contexts"], events["live_graphs"]) == (contexts, 2)
    scenes += [loaded.encode(room) for room in rooms]
    first.close()
    del scenes, scene
    gc.collect()
    assert tensorrt_any.live_bytes - empty == 2 * size(loaded)
    kept = loaded.encode(rooms[0])
    assert kept.depth([(1, 1)]).shape == (1,)
    assert tensorrt_any.live_bytes - empty == 2 * size(loaded)


def test_a_scene_outlives_its_model(engines: Path, tensorrt_any: Any, model: Model, rooms, points) -> None:
    with nothing_left(tensorrt_any):
        with spd.load(engines, backend="tensorrt") as short:
            scene = short.encode(rooms[0])
            short.encode(rooms[1]).close()
        del short
        np.testing.assert_allclose(scene.depth(points), model.encode(rooms[0]).depth(points), rtol=1e-5)
        scene.close()


@contextmanager
def two_lanes(model: Model) -> Iterator[tuple[Any, Any, Any]]:
    """Both lanes of a model, as two calls that overlap have them, and where scenes get their memory."""
    assert model._residency is not None
    backend: Any = model._residency.backend
    with backend._lanes.use() as first, backend._lanes.use() as second:
        yield first, second, backend._scenes


def test_any_lane_serves_any_scene(loaded: Model, tensorrt_any: Any, model: Model, rooms, points) -> None:
    """By events between their streams; the stand-in complains of a race. And in memory that was another scene's."""
    asked = points[None, :10].astype(np.float32)
    expected = [model.encode(room).depth(points[:10]) for room in rooms]
    with two_lanes(loaded) as (first, second, scenes):
        memory, other = scenes.take(), scenes.take()
        first.encode(rooms[0][None], memory)
        second.encode(rooms[1][None], other)
        before = tensorrt_any.counts.events["synchronisations"]
        np.testing.assert_allclose(second.decode(memory, asked)[0], expected[0], rtol=1e-5)
        assert tensorrt_any.counts.events["synchronisations"] == before + 1
        np.testing.assert_allclose(first.decode(other, asked)[0], expected[1], rtol=1e-5)
        np.testing.assert_allclose(first.decode(memory, asked)[0], expected[0], rtol=1e-5)
        scenes.give_back(memory)
        assert scenes.take() is memory
        second.encode(rooms[2][None], memory)
        np.testing.assert_allclose(first.decode(memory, asked)[0], expected[2], rtol=1e-5)
        scenes.give_back(memory)
        assert scenes.take() is memory
        first.encode(rooms[1][None], memory)
        assert scenes.give_back(memory) is None
        assert scenes.take() is memory
        second.encode(rooms[0][None], memory)  # while the other lane may still be writing to it
        np.testing.assert_allclose(first.decode(memory, asked)[0], expected[0], rtol=1e-5)
        scenes.give_back(memory)
        scenes.give_back(other)


def test_two_lanes_have_a_context_for_each_profile(loaded: Model, tensorrt_any: Any, rooms, points) -> None:
    events = tensorrt_any.counts.events
    assert events["live_contexts"] == 1 + len(EDGES), "one lane, until two calls overlap"
    for _ in range(2):
        with two_lanes(loaded):
            assert events["live_contexts"] == 2 * (1 + len(EDGES))
    scenes = [loaded.encode(room) for room in rooms * 2]
    for scene in scenes * 2:
        for count in (1, 10, 30):
            scene.depth(points[:count])
    assert events["live_contexts"] == 2 * (1 + len(EDGES))
    assert events["live_graphs"] <= 2 * (1 + len(EDGES))


def test_eight_threads(loaded: Model, tensorrt_any: Any, model: Model, rooms, points: NDArray[np.float64]) -> None:
    """Scenes of their own, one that all share, and some that are closed while they are encoded.

    The stand-in complains of a context in two threads at once, and of memory that two streams use in no order.
    """
    empty = tensorrt_any.live_bytes
    expected = [model.encode(room).depth(points) for room in rooms]
    shared = loaded.encode(rooms[0])
    barrier = threading.Barrier(8)

    def work(i: int) -> list[tuple[int, slice, NDArray[np.float32]]]:
        barrier.wait(timeout=60)
        answers = []
        for turn in range(3):
            which, some = (i + turn) % len(rooms), slice(i * 5, i * 5 + 20 * turn + 1)
            loaded.encode(rooms[i % len(rooms)]).close()
            with loaded.encode(rooms[which]) as scene:
                answers += [(which, some, scene.depth(points[some])), (0, some, shared.depth(points[some]))]
                answers += [(which, some, scene.depth(points[some]))]
        return answers

    with ThreadPoolExecutor(8) as pool:
        answers = [answer for thread in pool.map(work, range(8)) for answer in thread]
    assert len(answers) == 72
    for which, some, depth in answers:
        np.testing.assert_allclose(depth, expected[which][some], rtol=1e-5)
    assert tensorrt_any.counts.events["live_contexts"] == 2 * (1 + len(EDGES))
    shared.close()
    with two_lanes(loaded) as (first, _, _):
        lane = sum(buffer.nbytes for buffer in (first._cache, first._scratch, first._image))
        assert 0 <= tensorrt_any.live_bytes - empty - lane - 2 * size(loaded) < 2**15, "a second lane and two spares"


def test_two_scenes_overlap(loaded: Model, rooms, points, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one call waits for its stream, one on another scene runs to its end."""
    from spd.runtime.tensorrt import cuda  # the one in use

    first, second = loaded.encode(rooms[0]), loaded.encode(rooms[1])
    waits, go_on, sync = threading.Event(), threading.Event(), cuda.Stream.sync
    holding = threading.current_thread()

    def slow_sync(stream: Any, what: str) -> None:
        if threading.current_thread() is not holding:
            waits.set()
            assert go_on.wait(30)
        sync(stream, what)

    monkeypatch.setattr(cuda.Stream, "sync", slow_sync)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(first.depth, points[:3])
        assert waits.wait(30)
        assert second.depth(points[:3]).shape == (3,)
        assert not slow.done()
        go_on.set()
        assert slow.result(30).shape == (3,)


def test_nothing_is_freed_during_a_capture(
    loaded: Model, tensorrt_any: Any, rooms, points, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scenes that the garbage collector finds meanwhile are freed right afterwards."""
    from spd.runtime.tensorrt import cuda  # the one in use

    scenes, capture, live = [loaded.encode(rooms[0]) for _ in range(5)], cuda.Stream.capture, []

    def watched(stream: Any, enqueue: Callable[[], None], what: str) -> Any:
        def enqueue_and_forget() -> None:
            enqueue()
            live.append(tensorrt_any.live_bytes)
            del scenes[1:]
            gc.collect()
            live.append(tensorrt_any.live_bytes)

        return capture(stream, enqueue_and_forget, what)

    monkeypatch.setattr(cuda.Stream, "capture", watched)
    for _ in range(3):
        assert scenes[0].depth(points[:3]).shape == (3,)
    assert loaded.notes == []
    assert len(live) == 2
    assert live[0] == live[1] == tensorrt_any.live_bytes + 2 * size(loaded)
    scenes.clear()  # which the patch still holds


def test_the_limit_is_the_largest_bucket(loaded: Model, engines: Path) -> None:
    manifest = open_bundle(engines).manifest
    assert [e.profiles[-1].points for e in manifest.engines] == [None, (48, 48, 48)]
    assert manifest.max_points == 512, "more are asked in chunks"
    assert loaded._residency is not None
    assert loaded._residency.backend.max_points == 48
