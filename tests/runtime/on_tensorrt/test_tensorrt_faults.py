"""When CUDA or TensorRT fails: a typed error that names call and tensor, nothing lost, and the next call works."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tensorrt_support import add_engines, nothing_left, nothing_pending

import spd
from spd.errors import BackendError, CudaError, DeviceMemoryError, TensorRTError
from spd.runtime import Model


@pytest.fixture
def engines(tensorrt_11: Any, bundle: Path) -> Path:
    return add_engines(bundle)


@pytest.fixture
def loaded(engines: Path, tensorrt_11: Any) -> Iterator[Model]:
    with nothing_left(tensorrt_11):
        with spd.load(engines, backend="tensorrt") as model:
            yield model
        del model
        gc.collect()


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
    assert number == len(messages) + 1 > 15
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
    loaded.encode(rooms[1])  # leaves a second lane and a slot behind
    other = loaded.encode(rooms[1])
    tensorrt_11.faults.allocation = 1
    with pytest.raises(DeviceMemoryError) as caught:
        loaded.encode(rooms[2])
    assert "allocate failed for the cache of a scene: wanted 1" in str(caught.value)
    assert " MiB of GPU memory, 163" in str(caught.value), "of the 16 GiB that the stand-in has"
    assert "MiB are free on the GPU and SPD holds" in str(caught.value)
    assert "close scenes or give a cache_budget" in str(caught.value)
    other.close()
    np.testing.assert_allclose(kept.depth(points[:10]), expected, rtol=1e-5)


def test_a_failed_encode_gives_its_slot_back(loaded: Model, tensorrt_11: Any, rooms, points, expected) -> None:
    loaded.encode(rooms[0]).close()
    live = tensorrt_11.live_buffers
    for fault, kind, what in (
        ("enqueue", TensorRTError, r"execute_async_v3 failed for encoder.fp32.engine.*planned fault"),
        ("execution", CudaError, "sync failed for the encoder"),
    ):
        setattr(tensorrt_11.faults, fault, 1)
        with pytest.raises(kind, match=what) as caught:
            loaded.encode(rooms[1])
        assert nothing_pending(tensorrt_11)
        np.testing.assert_allclose(loaded.encode(rooms[0]).depth(points[:10]), expected, rtol=1e-5)
        assert tensorrt_11.live_buffers == live, "no second slot"
        assert caught.tb is not None, "and that with the frames of the failure alive"


@pytest.mark.parametrize("queries", [0, 1, 2], ids=["plain", "captured", "launched"])
@pytest.mark.parametrize(
    ("fault", "kind", "what"),
    [
        ("context", DeviceMemoryError, r"create_execution_context failed for decoder.fp32.engine"),
        ("enqueue", TensorRTError, r"execute_async_v3 failed for decoder.fp32.engine.*planned fault"),
        ("launch", CudaError, r"graph launch failed for decoder.fp32.engine at K=16"),
        ("execution", CudaError, "sync failed for the decoder"),
    ],
)
def test_a_failed_query(
    loaded: Model, tensorrt_11: Any, rooms, points, expected, fault: str, kind: type, what: str, queries: int
) -> None:
    """In the first, the capturing and a launching query, as far as it can happen there."""
    happens = {"context": [0], "enqueue": [0], "launch": [1, 2], "execution": [0, 1, 2]}
    scene = loaded.encode(rooms[0])
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
def test_without_graphs_it_goes_on_and_says_so(
    loaded: Model, tensorrt_11: Any, rooms, points, expected, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    scene = loaded.encode(rooms[0])
    scene.depth(points[:10])
    setattr(tensorrt_11.faults, fault, 1)
    with caplog.at_level(logging.WARNING, "spd"):
        for _ in range(3):
            np.testing.assert_allclose(scene.depth(points[:10]), expected, rtol=1e-5)
    assert tensorrt_11.counts.events["launches"] == 0
    (note,) = loaded.notes
    assert note.startswith("CUDA graphs are off, queries are enqueued one kernel at a time: CUDA graph capture failed")
    assert "decoder.fp32.engine at K=16" in note
    assert [record.getMessage() for record in caplog.records if record.name == "spd"] == [note]
    loaded.encode(rooms[1]).depth(points[:10])
    assert len(loaded.notes) == 1
    assert tensorrt_11.counts.events["captures"] == 1


def test_what_tensorrt_refuses_names_the_tensor(loaded: Model, rooms, points, monkeypatch: pytest.MonkeyPatch) -> None:
    from stand_ins.trt_context import IExecutionContext

    scene = loaded.encode(rooms[0])
    for method in ("set_input_shape", "set_tensor_address"):
        with monkeypatch.context() as patch:
            patch.setattr(IExecutionContext, method, lambda self, name, *_: name != "l3_keys_2")
            with pytest.raises(TensorRTError, match=rf"{method} failed for decoder.fp32.engine, tensor l3_keys_2"):
                scene.depth(points[:10])
    with monkeypatch.context() as patch:
        patch.setattr(IExecutionContext, "set_optimization_profile_async", lambda *_: False)
        with pytest.raises(TensorRTError, match=r"set_optimization_profile_async failed for decoder.*profile 1"):
            scene.depth(points[:10])
    with monkeypatch.context() as patch:
        patch.setattr(IExecutionContext, "infer_shapes", lambda *_: ["points"])
        with pytest.raises(TensorRTError, match=r"infer_shapes failed for decoder.fp32.engine, tensors points"):
            scene.depth(points[:10])
    assert scene.depth(points[:10]).shape == (10,)


def test_a_failed_copy_names_the_tensor(loaded: Model, rooms, points, monkeypatch: pytest.MonkeyPatch) -> None:
    from stand_ins.cuda_memory import Buffer

    scene, copy_from = loaded.encode(rooms[0]), Buffer.copy_from
    for tensor, at in (("points", 0), ("depth", 1)):
        calls: list[int] = []

        def fails(self: Any, *arguments: Any, calls: list[int] = calls, at: int = at, **options: Any) -> None:
            calls.append(1)
            if len(calls) > at:
                raise RuntimeError("a planned fault")
            copy_from(self, *arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(Buffer, "copy_from", fails)
            with pytest.raises(CudaError, match=f"CUDA copy_from failed for tensor {tensor}: a planned fault"):
                scene.depth(points[:10])
    assert scene.depth(points[:10]).shape == (10,)
