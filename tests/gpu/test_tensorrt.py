"""TensorRT on a real GPU: engines built and proven by the command, then queried through `spd.load`.

Run them with `python -m pytest tests/gpu`. Building takes minutes, once per run.
"""

from __future__ import annotations

import gc
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from gpu_support import NEEDS_GPU, PRECISIONS, RELATIVE
from numpy.typing import NDArray

import spd
from spd.errors import TensorRTError
from spd.runtime import Model
from spd.runtime.backend import cache_nbytes
from spd.runtime.tensorrt.cuda import Gpu

pytestmark = NEEDS_GPU


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
