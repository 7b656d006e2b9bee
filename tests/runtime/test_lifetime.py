"""Scenes and models end when they are closed or forgotten, give back their memory, and leave the others alone."""

from __future__ import annotations

import copy
import gc
import math
import pickle
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import spd
from spd.bundle import open_bundle
from spd.errors import SPDError
from spd.runtime import Model, loading
from spd.runtime.backend import Backend


class Held:
    """A cache that can be watched."""


class Watched(Backend):
    name, precision, height, width, max_points = "watched", "fp32", 32, 32, 4

    def __init__(self) -> None:
        self.caches: list[weakref.ref[Held]] = []
        self.closed = 0
        self.during_decode: Any = None

    def encode(self, image: NDArray[np.uint8]) -> Held:
        cache = Held()
        self.caches.append(weakref.ref(cache))
        return cache

    def decode(self, cache: Held, points: NDArray[np.float32]) -> NDArray[np.float32]:
        assert isinstance(cache, Held)
        if self.during_decode is not None:
            self.during_decode()
        return points.sum(axis=2)

    def close(self) -> None:
        self.closed += 1


IMAGE = np.zeros((32, 32, 3), np.uint8)


@pytest.fixture
def backend() -> Watched:
    gc.disable()  # so that what goes, goes at once and not when the collector happens to run
    return Watched()


@pytest.fixture(autouse=True)
def collector() -> Any:
    yield
    gc.enable()


def test_the_cache_goes_with_close_with_the_block_and_with_the_last_reference(backend: Watched) -> None:
    model = Model(backend, None, [])
    closed, forgotten = model.encode(IMAGE), model.encode(IMAGE)
    with model.encode(IMAGE):
        assert [cache() is not None for cache in backend.caches] == [True] * 3
    assert backend.caches[2]() is None
    closed.close()
    assert backend.caches[0]() is None
    assert backend.caches[1]() is not None
    del forgotten
    assert backend.caches[1]() is None


def test_the_cache_goes_when_the_block_fails(backend: Watched) -> None:
    with pytest.raises(ZeroDivisionError), Model(backend, None, []).encode(IMAGE):
        raise ZeroDivisionError
    assert backend.caches[0]() is None


def test_a_closed_scene_does_not_hold_the_model() -> None:
    gc.disable()
    backend = Watched()
    model = Model(backend, None, [])
    scene = model.encode(IMAGE)
    watch = weakref.ref(backend)
    scene.close()
    model.close()
    del backend
    assert watch() is None
    assert "closed" in repr(scene)


def test_an_open_scene_outlives_its_model(backend: Watched) -> None:
    with Model(backend, None, []) as model:
        scene = model.encode(IMAGE)
    assert backend.closed == 1
    assert scene.depth([(1, 2)]).tolist() == [3]
    scene.close()
    assert backend.caches[0]() is None


def test_a_scene_closed_while_it_answers_still_answers(backend: Watched) -> None:
    scene = Model(backend, None, []).encode(IMAGE)
    backend.during_decode = scene.close  # as another thread would, after the first of three chunks began
    assert scene.depth([(i, 1) for i in range(10)]).tolist() == [i + 1 for i in range(10)]
    assert backend.caches[0]() is None


def test_what_is_closed_says_so(backend: Watched) -> None:
    model = Model(backend, None, [])
    scene = model.encode(IMAGE)
    for _ in range(2):
        scene.close()
        model.close()
    assert backend.closed == 1
    for points in ([(1, 1)], [], [(math.nan, 1)]):
        with pytest.raises(SPDError, match="the scene is closed; encode the image again"):
            scene.depth(points)
    for image in (IMAGE, Path("none.png")):
        with pytest.raises(SPDError, match=r"the model is closed; load it again with spd.load"):
            model.encode(image)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy_shares_everything_and_is_closed_by_itself(backend: Watched, copied: Callable[[Model], Model]) -> None:
    model = Model(backend, None, ["a note"], None)
    twin = copied(model)
    assert (twin.backend, twin.notes, twin.size) == ("watched", ["a note"], (32, 32))
    model.close()
    with pytest.raises(SPDError, match="the model is closed"):
        model.encode(IMAGE)
    with twin.encode(IMAGE) as scene:
        assert scene.depth([(1, 2)]).tolist() == [3]
    assert len(backend.caches) == 1


@pytest.mark.parametrize("use", [copy.copy, copy.deepcopy, pickle.dumps])
def test_what_cannot_be_copied_says_so(backend: Watched, use: Callable[[Any], Any]) -> None:
    model = Model(backend, None, [])
    with pytest.raises(SPDError, match=r"^a scene cannot be copied or pickled: .*; encode the image again there$"):
        use(model.encode(IMAGE))
    if use is pickle.dumps:
        with pytest.raises(SPDError, match=r"a model that spd.load did not make cannot be pickled"):
            use(model)
        model.close()
        with pytest.raises(SPDError, match="the model is closed"):
            use(model)


def test_a_pickled_model_is_loaded_again_with_what_was_asked(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rooms, points
) -> None:
    """In another folder, and with "auto" as the request, whatever it came to here."""
    calls: list[tuple[Any, ...]] = []
    real = loading._load_bundle
    monkeypatch.setattr(loading, "_load_bundle", lambda *arguments: calls.append(arguments) or real(*arguments))
    monkeypatch.chdir(exported.parent)
    options: dict[str, Any] = {"precision": "fp16", "threads": 1, "cache_budget": "1GiB"}
    with spd.load(exported.name, **options) as model:
        expected = model.encode(rooms[0]).depth(points)
        data = pickle.dumps(model)
    monkeypatch.chdir(tmp_path)
    for again in (pickle.loads(data), pickle.loads(pickle.dumps(pickle.loads(data)))):
        np.testing.assert_array_equal(again.encode(rooms[0]).depth(points), expected)
    assert calls[0] == (Path(exported.name), "auto", "fp16", 1, 2**30, None)
    assert calls[1:] == [(exported, *calls[0][1:])] * 3


SPAWN = """
import multiprocessing, os, sys
import numpy as np
import spd

def work(model):
    return os.getpid(), model.encode(np.full((160, 192, 3), 99, np.uint8)).depth([(1, 1)]).tolist()

if __name__ == "__main__":
    with spd.load(sys.argv[1], threads=1) as model, multiprocessing.get_context("spawn").Pool(1) as pool:
        (there, depth), (here, expected) = pool.apply(work, (model,)), work(model)
        assert there != here
        assert depth == expected, (depth, expected)
"""


def test_a_model_is_an_argument_for_a_spawned_process(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SPAWN)
    command = [sys.executable, str(tmp_path / "script.py"), str(exported)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr


def test_repr_says_what_it_is(backend: Watched) -> None:
    model = Model(backend, None, [])
    assert repr(model) == "<spd.Model 32x32 fp32 on watched>"
    assert repr(model.encode(IMAGE[:20])) == "<spd.Scene 32 x 20 pixels on watched>"


def test_scenes_do_not_mix(cpu_model: Model, rooms, points: NDArray[np.float64]) -> None:
    expected = []
    for room in rooms:
        with cpu_model.encode(room) as scene:
            expected.append(scene.depth(points))
    first, second, third = (cpu_model.encode(room) for room in rooms)
    np.testing.assert_array_equal(second.depth(points), expected[1])
    np.testing.assert_array_equal(first.depth(points), expected[0])
    second.close()
    reuses_its_memory = cpu_model.encode(rooms[1][::-1])
    np.testing.assert_array_equal(third.depth(points), expected[2])
    np.testing.assert_array_equal(first.depth(points), expected[0])
    assert np.abs(reuses_its_memory.depth(points) / expected[1] - 1).max() > 0.01


def test_the_real_model_can_be_closed_before_its_scene(exported: Path, cpu_model: Model, rooms, points) -> None:
    with spd.load(exported, backend=cpu_model.backend) as short:
        scene = short.encode(rooms[0])
    gc.collect()
    np.testing.assert_array_equal(scene.depth(points), cpu_model.encode(rooms[0]).depth(points))


MEASURE = """
import os, sys
import numpy as np
import spd

def resident():
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def scenes(count):
    for _ in range(count):
        with model.encode(room) as scene:
            scene.depth([(1, 1)])

model = spd.load(sys.argv[1], backend=sys.argv[2], threads=1)
room = np.random.default_rng(0).integers(0, 256, (160, 192, 3), dtype=np.uint8)
scenes(10)
before = resident()
scenes(40)
print(resident() - before)
kept = [model.encode(room) for _ in range(20)]
print(resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/statm")
@pytest.mark.parametrize("backend", ["onnxruntime-cpu", "openvino"])
def test_memory_does_not_grow_with_the_scenes_that_were_closed(exported: Path, backend: str) -> None:
    """After 40 more scenes less than 10 caches' worth of memory is missing; 20 open scenes take more.

    In a process of its own: here, heap that earlier tests freed would hide the caches.
    """
    cache = sum(4 * math.prod(spec.resolved(1)) for spec in open_bundle(exported).manifest.contract.encoder_outputs)
    assert cache > 1_000_000
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(exported), backend],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    grown, kept = map(int, done.stdout.split())
    assert grown < 10 * cache
    assert kept > 10 * cache, "the measure does not see caches"
