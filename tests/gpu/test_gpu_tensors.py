"""Tensors of torch on a real GPU, through TensorRT: images, points, depths and streams."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gpu_support import NEEDS_GPU, RELATIVE

import spd
from spd.errors import BackendError
from spd.runtime import Model
from spd.runtime.devices import gpus

pytestmark = NEEDS_GPU


def torch_on_gpu() -> Any:
    """Torch, where it sees the GPU."""
    torch = pytest.importorskip("torch", reason="makes tensors on the GPU")
    if not torch.cuda.is_available():
        pytest.skip("torch does not see the GPU")
    return torch


def test_a_tensor_on_the_gpu_is_encoded_where_it_is(model: Model, rooms, points) -> None:
    torch = torch_on_gpu()
    for room in rooms:
        expected = model.encode(room).depth(points)
        image = torch.from_numpy(room).cuda()
        scene = model.encode(image)
        image.zero_()  # in its stream, after it was read
        np.testing.assert_array_equal(scene.depth(points), expected)
    assert not [note for note in model.notes if "images on" in note]


def test_a_tensor_is_read_in_the_order_of_the_callers_stream(model: Model, rooms, points) -> None:
    """It is written late in that stream: whoever does not wait for that reads zeros."""
    torch = torch_on_gpu()
    expected = model.encode(rooms[0]).depth(points)
    source, image = torch.from_numpy(rooms[0]).cuda(), torch.zeros(160, 192, 3, dtype=torch.uint8, device="cuda")
    torch.cuda.synchronize()
    for named in (lambda stream: stream, lambda stream: stream.cuda_stream):
        stream = torch.cuda.Stream()
        image.zero_()
        torch.cuda.synchronize()
        with torch.cuda.stream(stream):
            torch.cuda._sleep(50_000_000)
            image.copy_(source)
        scene = model.encode(image, stream=named(stream))
        with torch.cuda.stream(stream):
            image.zero_()
        np.testing.assert_array_equal(scene.depth(points), expected)


def test_only_the_cache_is_copied_for_a_tensor_on_the_gpu(model: Model, rooms) -> None:
    torch = torch_on_gpu()
    profiler = pytest.importorskip("torch.profiler", reason="asks torch's profiler what was copied")
    image = torch.from_numpy(rooms[0]).cuda()
    for _ in range(3):
        model.encode(image).wait()
    with profiler.profile(activities=[profiler.ProfilerActivity.CUDA]) as profile:
        model.encode(image).wait()
    copies = [event.name for event in profile.events() if "Memcpy" in event.name]
    if not copies:
        pytest.skip("torch's profiler sees no copies here (CUPTI is missing or in use)")
    assert not [name for name in copies if "HtoD" in name or "DtoH" in name]


def test_points_and_depths_of_torch_stay_on_the_gpu(model: Model, rooms, points) -> None:
    torch = torch_on_gpu()
    scene = model.encode(rooms[0])
    expected = scene.depth(points)
    asked, out = torch.from_numpy(points).cuda(), torch.empty(len(points), device="cuda")
    depth = scene.depth(asked)
    assert (depth.device, depth.dtype) == (asked.device, torch.float32)
    np.testing.assert_allclose(depth.cpu().numpy(), expected, rtol=1e-5)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        late = asked.clone()
    assert scene.depth(late, out=out, stream=stream) is out
    stream.synchronize()
    np.testing.assert_allclose(out.cpu().numpy(), expected, rtol=1e-5)


def test_what_is_not_of_the_encoders_size_is_fitted_on_the_host(engines: Path, rooms, points) -> None:
    torch = torch_on_gpu()
    with spd.load(engines, device=0) as loaded:
        channels_first = torch.from_numpy(rooms[0].transpose(2, 0, 1).copy()).cuda()
        depth = loaded.encode(channels_first.permute(1, 2, 0)).depth(points)
        np.testing.assert_array_equal(depth, loaded.encode(rooms[0]).depth(points))
        small = rooms[0][:80, :96]
        depth = loaded.encode(torch.from_numpy(small.copy()).cuda()).depth(points / 2)
        np.testing.assert_array_equal(depth, loaded.encode(small).depth(points / 2))
        assert len([note for note in loaded.notes if note.startswith("images on the GPU")]) == 1


def test_after_a_warm_up_nothing_is_captured(engines: Path, rooms, points) -> None:
    with spd.load(engines, backend="tensorrt") as loaded:
        loaded.warm_up(points=(16, 64, 256))
        before = loaded.stats()
        assert before.graphs >= 4
        assert before.fallbacks == 0
        with loaded.encode(rooms[0]) as scene:
            for count in (16, 64, 256):
                scene.depth(points[:count])
            assert scene.nbytes == loaded.stats().bytes
        assert loaded.stats().graphs == before.graphs


def test_a_gpu_that_is_not_there_is_refused(engines: Path) -> None:
    with pytest.raises(BackendError, match=r"^device is 99, expected the number of a GPU from 0 to "):
        spd.load(engines, device=99)


def test_the_last_gpu_answers_as_the_first(engines: Path, rooms, points) -> None:
    last = int(gpus()) - 1
    if last == 0:
        pytest.skip("there is only one GPU")
    with spd.load(engines, device=0) as first, spd.load(engines, device=last) as other:
        depth = other.encode(rooms[0]).depth(points)
        np.testing.assert_allclose(depth, first.encode(rooms[0]).depth(points), rtol=RELATIVE["fp16"])
