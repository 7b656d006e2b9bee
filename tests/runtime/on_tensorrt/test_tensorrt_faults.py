"""When CUDA or TensorRT fails: a typed error that names call and tensor, nothing lost, and the next call works."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tensorrt_support import add_engines, nothing_left, nothing_pending, only_loaded

import spd
from spd.errors import BackendError, CudaError, DeviceMemoryError, TensorRTError
from spd.runtime import Model


@pytest.fixture
def engines(tensorrt_11: Any, bundle: Path) -> Path:
    return add_engines(bundle)


@pytest.fixture
def loaded(engines: Path, tensorrt_11: Any) -> Iterator[Model]:
    with only_loaded(engines, tensorrt_11) as model:
        yield model
        del model


@pytest.fixture
def expected(model: Model, rooms, points: NDArray[np.float64]) -> NDArray[np.float32]:
    """Depths of the first ten points of the first room, by ONNX Runtime."""
    return model.encode(rooms[0]).depth(points[:10])


def test_out_of_memory_at_each_allocation(bundle: Path, tensorrt_11: Any, rooms, points, expected) -> None:
    """While loading, encoding and querying; every one is hit in turn, until none is left to hit."""
    engines = add_engines(bundle, edges=(16,))
    machine, messages = tensorrt_11, []
    for number in range(1, 100):
        with nothing_left(machine):
            try:
                machine.faults.allocation = number
                with spd.load(engines, backend="tensorrt") as model:
                    scenes = [model.encode(room) for room in rooms]
                    np.testing.assert_allclose(scenes[0].depth(points[:10]), expected, rtol=1e-5)
                    del scenes
            except BackendError as error:
                messages.append(str(error))
                error.__traceback__ = None
            model = None  # type: ignore[assignment]
            gc.collect()
        if machine.faults.allocation is not None:
            break
    machine.faults.allocation = None
    text = "\n".join(messages)
    assert number == len(messages) + 1 == 15
    for wanted in (
        "tensor image",
        "tensor points",
        "tensor depth",
        "tensor routes",
        "scratch memory",
        "the cache of a",
    ):
        assert f"allocate failed for {wanted}" in text
    assert "deserialize_cuda_engine failed for decoder.fp32.engine" in text
    with spd.load(engines, backend="tensorrt") as model:
        np.testing.assert_allclose(model.encode(rooms[0]).depth(points[:10]), expected, rtol=1e-5)


def test_out_of_memory_says_how_much(loaded: Model, tensorrt_11: Any, rooms, points, expected) -> None:
    kept = loaded.encode(rooms[0])
    tensorrt_11.faults.allocation = 1
    with pytest.raises(DeviceMemoryError) as caught:
        loaded.encode(rooms[2])
    assert "allocate failed for the cache of a scene: wanted 1" in str(caught.value)
    assert " MiB of GPU memory, 163" in str(caught.value), "of the 16 GiB that the stand-in has"
    assert "MiB are free on the GPU and SPD holds" in str(caught.value)
    assert "close scenes or give a cache_budget" in str(caught.value)
    np.testing.assert_allclose(kept.depth(points[:10]), expected, rtol=1e-5)


@pytest.mark.parametrize(("fault", "number"), [("allocation", 1), ("allocation", 5), ("context", 1), ("context", 4)])
def test_a_second_lane_that_does_not_fit_is_not_made(
    loaded: Model, tensorrt_11: Any, rooms, points, expected, fault: str, number: int
) -> None:
    """Then calls wait for the first lane, that is said once, and nothing of the second stays."""
    scene, events = loaded.encode(rooms[0]), tensorrt_11.counts.events
    live, contexts = tensorrt_11.live_buffers, events["live_contexts"]
    setattr(tensorrt_11.faults, fault, number)
    assert loaded._residency is not None
    backend: Any = loaded._residency.backend
    with ThreadPoolExecutor(2) as pool:
        with backend._lanes.use():
            asked = [pool.submit(scene.depth, points[:10]) for _ in range(2)]
            deadline = time.monotonic() + 30
            while not loaded.notes and time.monotonic() < deadline:
                time.sleep(0.001)
            assert not any(depth.done() for depth in asked)
        for depth in asked:
            np.testing.assert_allclose(depth.result(30), expected, rtol=1e-5)
    assert getattr(tensorrt_11.faults, fault) is None
    (note,) = loaded.notes
    assert "a second lane was not made: " in note
    assert {"allocation": "allocate failed for", "context": "create_execution_context failed"}[fault] in note
    gc.collect()
    assert (tensorrt_11.live_buffers, events["live_contexts"]) == (live, contexts)


@pytest.mark.parametrize(
    ("fault", "when", "kind", "what"),
    [
        ("enqueue", "encode", TensorRTError, r"execute_async_v3 failed for encoder.fp32.engine.*planned fault"),
        ("execution", "depth", CudaError, "sync failed for encoder.fp32.engine or decoder.fp32.engine at K=16;"),
    ],
)
def test_a_failed_encode(
    loaded: Model, tensorrt_11: Any, rooms, points, expected, fault: str, when: str, kind: type, what: str
) -> None:
    """What TensorRT refuses is said at once, what fails on the GPU by the next query; and memory stays for the next."""
    live = tensorrt_11.live_buffers
    setattr(tensorrt_11.faults, fault, 1)
    scene = loaded.encode(rooms[1]) if when == "depth" else None
    with pytest.raises(kind, match=what) as caught:
        loaded.encode(rooms[1]) if scene is None else scene.depth(points[:10])
    assert nothing_pending(tensorrt_11)
    if scene is not None:
        with pytest.raises(CudaError, match=r"image of this scene could not be encoded: .*sync failed for encoder"):
            scene.depth(points[:10])
        scene.close()
    np.testing.assert_allclose(loaded.encode(rooms[0]).depth(points[:10]), expected, rtol=1e-5)
    assert tensorrt_11.live_buffers == live + 1, "no second piece"
    assert caught.tb is not None, "and that with the frames of the failure alive"


def test_a_failed_encode_comes_up_in_the_other_lane(loaded: Model, tensorrt_11: Any, rooms, points, expected) -> None:
    """Which waits for it; and it is not forgotten there, either."""
    assert loaded._residency is not None
    backend: Any = loaded._residency.backend
    asked = points[None, :10].astype(np.float32)
    memory, other = backend._scenes.take(), backend._scenes.take()
    with backend._lanes.use() as first, backend._lanes.use() as second:
        tensorrt_11.faults.execution = 1
        first.encode(rooms[1][None], memory)
        second.encode(rooms[0][None], other)
        with pytest.raises(CudaError, match=r"sync failed for encoder.fp32.engine or decoder.fp32.engine at K=16"):
            second.decode(memory, asked)
        second.drain()
        for lane in (first, second):
            with pytest.raises(CudaError, match="could not be encoded"):
                lane.decode(memory, asked)
    backend._scenes.give_back(memory)
    backend._scenes.give_back(other)
    np.testing.assert_allclose(loaded.encode(rooms[0]).depth(points[:10]), expected, rtol=1e-5)


def test_a_context_that_is_refused(engines: Path, tensorrt_11: Any) -> None:
    for number, graph in enumerate(("encoder", *["decoder"] * 3), 1):
        tensorrt_11.faults.context = number
        with pytest.raises(DeviceMemoryError, match=rf"create_execution_context failed for {graph}.fp32.engine"):
            spd.load(engines, backend="tensorrt")
        gc.collect()
        assert tensorrt_11.live_buffers == 0


@pytest.mark.parametrize("queries", [0, 1, 2], ids=["plain", "captured", "launched"])
@pytest.mark.parametrize(
    ("fault", "kind", "what"),
    [
        ("enqueue", TensorRTError, r"execute_async_v3 failed for decoder.fp32.engine.*planned fault"),
        ("launch", CudaError, r"graph launch failed for decoder.fp32.engine at K=16"),
        ("execution", CudaError, r"sync failed for decoder.fp32.engine at K=16; if it goes on"),
    ],
)
def test_a_failed_query(
    loaded: Model, tensorrt_11: Any, rooms, points, expected, fault: str, kind: type, what: str, queries: int
) -> None:
    """In the first, the capturing and a launching query, as far as it can happen there."""
    happens = {"enqueue": [0], "launch": [1, 2], "execution": [0, 1, 2]}
    scene = loaded.encode(rooms[0])
    scene.depth(points[:30])  # so that the encoder is done
    for _ in range(queries):
        scene.depth(points[:10])
    setattr(tensorrt_11.faults, fault, 1)
    if queries in happens[fault]:
        with pytest.raises(kind, match=what):
            scene.depth(points[:10])
        assert nothing_pending(tensorrt_11)
    setattr(tensorrt_11.faults, fault, None)
    for _ in range(3):
        np.testing.assert_allclose(scene.depth(points[:10]), expected, rtol=1e-5)


@pytest.mark.parametrize("fault", ["capture", "enqueue"])
def test_without_a_graph_it_goes_on_and_says_so(
    loaded: Model, tensorrt_11: Any, rooms, points, expected, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Only the graph that could not be captured is missing; and the reason is TensorRT's, if it was TensorRT."""
    scene, events = loaded.encode(rooms[0]), tensorrt_11.counts.events
    scene.depth(points[:10])
    setattr(tensorrt_11.faults, fault, 1)
    with caplog.at_level(logging.WARNING, "spd"):
        for _ in range(3):
            np.testing.assert_allclose(scene.depth(points[:10]), expected, rtol=1e-5)
    assert (events["captures"], events["launches"]) == (1, 0)
    (note,) = loaded.notes
    assert note.startswith("no CUDA graph of decoder.fp32.engine at K=16, its kernels are enqueued one by one: ")
    reason = {"capture": "CUDA graph capture failed", "enqueue": "TensorRT execute_async_v3 failed"}[fault]
    assert reason in note
    assert "planned fault" in note
    assert [record.getMessage() for record in caplog.records if record.name == "spd"] == [note]
    for count in (3, 30):
        for _ in range(3):
            np.testing.assert_allclose(scene.depth(points[:count])[:3], expected[:3], rtol=1e-5)
    assert (events["captures"], events["launches"]) == (3, 4), "of the other buckets"
    loaded.encode(rooms[1]).depth(points[:10])
    assert loaded.notes == [note]
    assert events["captures"] == 4, "the encoder's"


def test_what_tensorrt_refuses_names_the_tensor(
    engines: Path, tensorrt_11: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stand_ins.trt_context import IExecutionContext

    def refused(method: str, result: Callable[..., Any], message: str) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(IExecutionContext, method, result)
            with pytest.raises(TensorRTError, match=message):
                spd.load(engines, backend="tensorrt")
        gc.collect()
        assert tensorrt_11.live_buffers == 0

    for method, last, what in (
        ("set_input_shape", "l3_keys_2", "tensor l3_keys_2"),
        ("set_tensor_address", "points", "tensor points"),
        ("set_optimization_profile_async", 1, "profile 1"),
    ):
        accepts = getattr(IExecutionContext, method)
        refused(
            method,
            lambda self, which, value, last=last, accepts=accepts: which != last and accepts(self, which, value),
            f"{method} failed for decoder.fp32.engine, {what}",
        )
    refused("infer_shapes", lambda *_: ["points"], r"infer_shapes failed for encoder.fp32.engine, tensors points")


def test_a_failed_copy_names_the_tensor(loaded: Model, rooms, points, monkeypatch: pytest.MonkeyPatch) -> None:
    from stand_ins.cuda_memory import Buffer

    scene, copy_from = loaded.encode(rooms[0]), Buffer.copy_from
    scene.depth(points[:10])
    copied_in = "the cache of a lane"  # after a failure, the lane trusts nothing that is in its buffers
    for what, at in (("tensor points", 0), (copied_in, 0), ("tensor depth", 2)):
        calls: list[int] = []

        def fails(self: Any, *arguments: Any, calls: list[int] = calls, at: int = at, **options: Any) -> None:
            calls.append(1)
            if len(calls) > at:
                raise RuntimeError("a planned fault")
            copy_from(self, *arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(Buffer, "copy_from", fails)
            with pytest.raises(CudaError, match=f"CUDA copy_from failed for {what}: a planned fault"):
                scene.depth(points[:10])
    assert scene.depth(points[:10]).shape == (10,)
