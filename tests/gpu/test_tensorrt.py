"""TensorRT on a real GPU: engines built and proven by the command, then queried through `spd.load`.

Run them with `python -m pytest tests/gpu`. Building takes minutes, once per run.
"""

from __future__ import annotations

import gc
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import spd
from spd.data.rooms import render_room
from spd.errors import BackendError, TensorRTError
from spd.runtime import Model
from spd.runtime.backend import cache_nbytes
from spd.runtime.devices import gpus
from spd.runtime.tensorrt.cuda import Gpu, current_target


def reason() -> str | None:
    """Why there is nothing to test here."""
    try:
        current_target()
    except BackendError as error:
        return str(error)
    return None


REASON = reason()
pytestmark = [
    pytest.mark.skipif(REASON is not None, reason=f"TensorRT: {REASON}"),
    pytest.mark.timeout(1800),  # the first test builds six engines
]

RELATIVE = {"fp32": 1e-3, "fp16": 2e-2, "bf16": 5e-2}
"""The gate's tolerances; float32 kernels of a GPU add up in another order than those of the CPU."""
PRECISIONS = tuple(RELATIVE)


@pytest.fixture(scope="module")
def engines(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exported bundle with engines of all precisions, built by `spd-build` with its own proof."""
    folder = Path(shutil.copytree(exported, tmp_path_factory.mktemp("engines") / exported.name))
    command = [sys.executable, "-m", "engines.cli", str(folder), "--buckets", "16,64,256"]
    command += [argument for precision in PRECISIONS for argument in ("--precision", precision)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def gpu() -> Iterator[Gpu]:
    """For asking how much memory is free."""
    opened = Gpu()
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def cpu(exported: Path) -> Iterator[Model]:
    with spd.load(exported, backend="onnxruntime-cpu", precision="fp32") as model:
        yield model


@pytest.fixture(scope="module")
def model(engines: Path) -> Iterator[Model]:
    with spd.load(engines) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def rooms() -> list[NDArray[np.uint8]]:
    return [render_room(seed, 160, 192).image for seed in (3, 4, 5)]


@pytest.fixture(scope="module")
def points() -> NDArray[np.float64]:
    """[700, 2], more than the bundle takes at once."""
    return np.random.default_rng(0).random((700, 2)) * (192, 160)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_depths_are_those_of_the_cpu(engines: Path, cpu: Model, rooms, points, precision: str) -> None:
    with spd.load(engines, backend="tensorrt", precision=precision) as loaded:
        assert (loaded.backend, loaded.precision) == ("tensorrt", precision)
        for room in rooms[:2]:
            scene, expected = loaded.encode(room), cpu.encode(room).depth(points)
            for _ in range(3):  # plain, captured, launched
                np.testing.assert_allclose(scene.depth(points), expected, rtol=RELATIVE[precision])
        assert loaded.notes == [], "CUDA graphs were captured"


def test_auto_takes_fp16(model: Model) -> None:
    assert (model.backend, model.precision) == ("tensorrt", "fp16")


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 64, 65, 256, 257, 512, 513])
def test_every_count_of_points(model: Model, cpu: Model, rooms, points, count: int) -> None:
    expected = cpu.encode(rooms[0]).depth(points[:count])
    scene = model.encode(rooms[0])
    for _ in range(3):
        np.testing.assert_allclose(scene.depth(points[:count]), expected, rtol=RELATIVE["fp16"])


def test_memory_is_reused_without_a_trace_of_the_scene_before(model: Model, rooms, points) -> None:
    answers = []
    for room in (rooms[0], rooms[1], rooms[0]):
        with model.encode(room) as scene:
            answers.append([scene.depth(points[:100]) for _ in range(3)])
    np.testing.assert_array_equal(answers[0][2], answers[2][2])
    assert np.abs(answers[0][2] / answers[1][2] - 1).max() > 0.01


def test_scenes_that_are_asked_in_turn_do_not_mix(model: Model, rooms, points) -> None:
    """Each is copied into a lane that held another; and encoded while the one before still is."""
    expected = []
    for room in rooms:
        with model.encode(room) as scene:
            expected.append(scene.depth(points[:100]))
    scenes = [model.encode(room) for room in rooms]
    for _ in range(3):
        for scene, depth in zip(scenes, expected, strict=True):
            np.testing.assert_array_equal(scene.depth(points[:100]), depth)


def test_encode_does_not_wait_for_the_encoder(engines: Path, rooms) -> None:
    """The fastest of ten calls takes less time than the fastest of ten that wait."""
    with spd.load(engines, backend="tensorrt") as loaded:
        assert loaded._residency is not None
        backend = loaded._residency.backend
        seconds: dict[str, list[float]] = {"encode": [], "wait": []}
        for _ in range(12):  # the first two allocate and capture
            begin = time.perf_counter()
            cache = backend.encode(rooms[0][None])
            seconds["encode"].append(time.perf_counter() - begin)
            backend.wait(cache)
            seconds["wait"].append(time.perf_counter() - begin)
            backend.release(cache)
        assert min(seconds["encode"][2:]) < 0.8 * min(seconds["wait"][2:])


def test_only_points_and_depths_travel(model: Model, rooms, points) -> None:
    """By the profiler's account, once the graph is captured."""
    profiler = pytest.importorskip("torch.profiler", reason="asks torch's profiler what was copied")
    scene = model.encode(rooms[0])
    for _ in range(3):
        scene.depth(points[:64])
    with profiler.profile(activities=[profiler.ProfilerActivity.CUDA]) as profile:
        scene.depth(points[:64])
    copies = [event.name for event in profile.events() if "Memcpy" in event.name]
    if not copies:
        pytest.skip("torch's profiler sees no copies here (CUPTI is missing or in use)")
    assert sum("HtoD" in name for name in copies) == 1
    assert sum("DtoH" in name for name in copies) == 1


def test_memory_does_not_grow_in_ten_thousand_queries(model: Model, gpu: Gpu, rooms, points) -> None:
    """Of changing size, on scenes that come and go; less than one cache may be missing at the end."""
    counts = [1, 16, 40, 64, 200, 256, 300]

    def query(times: int) -> None:
        for i in range(times // 100):
            with model.encode(rooms[i % 3]) as scene:
                for j in range(100):
                    assert len(scene.depth(points[: counts[(i + j) % len(counts)]])) == counts[(i + j) % len(counts)]

    query(1000)
    before = gpu.free_bytes
    query(10_000)
    assert model.manifest is not None
    assert before - gpu.free_bytes < cache_nbytes(model.manifest.contract, "fp16")


def test_closed_models_give_back_gpu_memory(engines: Path, gpu: Gpu, rooms, points) -> None:
    def once() -> None:
        with spd.load(engines) as loaded:
            scenes = [loaded.encode(room) for room in rooms]
            for scene in scenes:
                scene.depth(points)
                scene.depth(points)

    once()
    gc.collect()
    before = gpu.free_bytes
    for _ in range(5):
        once()
        gc.collect()
    assert before - gpu.free_bytes < 16 * 2**20


def test_eight_threads(model: Model, rooms, points) -> None:
    expected = []
    for room in rooms:
        with model.encode(room) as scene:
            expected.append(scene.depth(points[:200]))
    shared = model.encode(rooms[0])

    def work(i: int) -> list[tuple[int, NDArray[np.float32]]]:
        answers = []
        for turn in range(20):
            which = (i + turn) % 3
            with model.encode(rooms[which]) as scene:
                answers += [(which, scene.depth(points[:200])), (0, shared.depth(points[:200]))]
        return answers

    with ThreadPoolExecutor(8) as pool:
        answers = [answer for thread in pool.map(work, range(8)) for answer in thread]
    assert len(answers) == 320
    for which, depth in answers:
        np.testing.assert_allclose(depth, expected[which], rtol=1e-5)


def test_a_budget_evicts_and_encodes_again(engines: Path, rooms, points) -> None:
    with spd.load(engines) as large:
        assert large._residency is not None
        size = large._residency.backend.cache_bytes
        assert size is not None
        with spd.load(engines, cache_budget=2 * size) as small:
            pairs = [(small.encode(room), large.encode(room)) for room in rooms]
            for _ in range(2):
                for one, other in pairs:
                    np.testing.assert_allclose(one.depth(points), other.depth(points), rtol=1e-5)


def test_a_changed_plan_is_refused(engines: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(engines, tmp_path / engines.name))
    with (copy / "decoder.fp16.engine").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(TensorRTError, match=r"decoder.fp16.engine is not the file .* --precision fp16 --force"):
        spd.load(copy, backend="tensorrt", precision="fp16")


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
