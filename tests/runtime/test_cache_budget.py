"""A memory budget for caches: the least recently used are evicted and computed again, on every backend."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tensorrt_support import add_engines, nothing_left

import spd
from spd.bundle import open_bundle
from spd.commands.cli import Memory
from spd.errors import InputError, SPDError
from spd.runtime import Model
from spd.runtime.backend import Backend, cache_nbytes
from spd.runtime.residency import parse_bytes


class Counting(Backend):
    """Depth is the image's value; says what is on the device."""

    name, precision, height, width, max_points, cache_bytes = "counting", "fp32", 32, 32, 4, 1000

    def __init__(self) -> None:
        self.live: list[int] = []
        self.most = 0
        self.encoded: list[int] = []
        self.fails = False
        self.lock = threading.Lock()

    def encode(self, image: NDArray[np.uint8]) -> int:
        if self.fails:
            raise SPDError("a planned fault")
        value = int(image.ravel()[0])
        with self.lock:
            self.encoded.append(value)
            self.live.append(value)
            self.most = max(self.most, len(self.live))
        return value

    def decode(self, cache: int, points: NDArray[np.float32]) -> NDArray[np.float32]:
        assert cache in self.live
        return np.full(points.shape[:2], cache, np.float32)

    def release(self, cache: int) -> None:
        with self.lock:
            self.live.remove(cache)


def image(value: int) -> NDArray[np.uint8]:
    return np.full((32, 32, 3), value, np.uint8)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (5, 5),
        ("5", 5),
        (" 7 B ", 7),
        ("2GiB", 2**31),
        ("1.5 KiB", 1536),
        ("500MB", 500_000_000),
        ("3mib", 3 * 2**20),
        ("1TB", 10**12),
    ],
)
def test_sizes(text: int | str, expected: int) -> None:
    assert parse_bytes(text) == expected


@given(st.integers(0, 10**30), st.sampled_from(["", "B", "kb", "KiB", "MB", "MiB", "GB", "gib", "TB", "TiB"]))
def test_sizes_are_exact(number: int, unit: str) -> None:
    factor = (1024 if "i" in unit.lower() else 1000) ** " KMGT".find(unit[:1].upper() or " ") if len(unit) > 1 else 1
    assert parse_bytes(f"{number}{unit}") == number * factor
    assert parse_bytes(f"{number}.5 {unit}") == (2 * number + 1) * factor // 2


@pytest.mark.parametrize("text", ["7KiB", "4KB", "1.5 GiB", "2gib", "4096", "1TB"])
def test_a_workspace_is_written_as_a_budget_is(text: str) -> None:
    assert Memory().convert(text, None, None) == parse_bytes(text)


@pytest.mark.parametrize("text", ["", "9" * 5000, "٣GiB", "GiB", "2 GG", "-1", -1, "1e9", "2GiB2", True, 1.5j])
def test_what_is_no_size(text: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a size; expected bytes or a size such as 2GiB or 500MB"):
        spd.load(tmp_path / "engines", cache_budget=text)


def test_without_a_budget_everything_stays() -> None:
    backend = Counting()
    model = Model(backend, None, [])
    scenes = [model.encode(image(i)) for i in range(20)]
    assert len(backend.live) == 20
    assert [scene.depth([(1, 1)]).tolist() for scene in scenes] == [[i] for i in range(20)]
    assert len(backend.encoded) == 20


def test_the_least_recently_used_goes_and_comes_again() -> None:
    backend = Counting()
    model = Model(backend, None, [], cache_budget=2999)
    first, second = model.encode(image(1)), model.encode(image(2))
    assert first.depth([(1, 1)]).tolist() == [1]
    model.encode(image(3)).close()
    assert sorted(backend.live) == [1]
    third = model.encode(image(4))
    assert sorted(backend.live) == [1, 4]
    assert second.depth([]).tolist() == []
    assert sorted(backend.live) == [1, 4], "no points, no cache"
    assert second.depth([(1, 1)] * 9).tolist() == [2] * 9
    assert sorted(backend.live) == [2, 4]
    assert first.depth([(1, 1)]).tolist() == [1]
    assert third.depth([(1, 1)]).tolist() == [4]
    assert backend.encoded == [1, 2, 3, 4, 2, 1, 4]
    assert backend.most == 2
    for scene in (first, second, third):
        scene.close()
    assert backend.live == []


def test_a_scene_that_is_gone_makes_room() -> None:
    backend = Counting()
    model = Model(backend, None, [], cache_budget=2000)
    kept, forgotten = model.encode(image(1)), model.encode(image(2))
    del forgotten
    model.encode(image(3))
    assert kept.depth([(1, 1)]).tolist() == [1]
    assert backend.encoded == [1, 2, 3]


def test_an_evicted_scene_that_cannot_be_encoded_again_says_so_and_can_be_later() -> None:
    backend = Counting()
    model = Model(backend, None, [], cache_budget=1000)
    first, second = model.encode(image(1)), model.encode(image(2))
    backend.fails = True
    with pytest.raises(SPDError, match="a planned fault"):
        first.depth([(1, 1)])
    with pytest.raises(SPDError, match="a planned fault"):
        model.encode(image(3))
    backend.fails = False
    assert [first.depth([(1, 1)]).tolist(), second.depth([(1, 1)]).tolist()] == [[1], [2]]
    second.close()
    with pytest.raises(SPDError, match="the scene is closed"):
        second.depth([(1, 1)])


def test_the_budget_holds_with_eight_threads() -> None:
    """Two caches for eight threads that share four scenes: nobody waits for ever, nobody gets another's depth."""
    backend = Counting()
    model = Model(backend, None, [], cache_budget=2000)
    shared = [model.encode(image(i)) for i in range(4)]

    def work(i: int) -> None:
        for turn in range(25):
            which = (i * 7 + turn * 3) % 4
            assert shared[which].depth([(1, 1)]).tolist() == [which]
            with model.encode(image(100 + i)) as own:
                assert own.depth([(1, 1)] * 6).tolist() == [100 + i] * 6

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(work, i) for i in range(8)]:
            done.result(60)
    assert backend.most <= 2


def test_a_scene_closed_by_another_thread_while_it_is_encoded_again() -> None:
    backend = Counting()
    model = Model(backend, None, [], cache_budget=1000)
    scene, other = model.encode(image(1)), model.encode(image(2))
    encode = backend.encode

    def closes_meanwhile(pixels: NDArray[np.uint8]) -> int:
        cache = encode(pixels)
        scene.close()
        return cache

    backend.encode = closes_meanwhile  # type: ignore[method-assign]
    with pytest.raises(SPDError, match="the scene is closed"):
        scene.depth([(1, 1)])
    assert backend.live == []
    assert other.depth([(1, 1)]).tolist() == [2]


def test_less_than_one_scene(exported: Path) -> None:
    size = cache_nbytes(open_bundle(exported).manifest.contract, "fp16")
    with pytest.raises(InputError, match=f"the cache of one scene takes {size} on onnxruntime-cpu in fp16") as caught:
        spd.load(exported, "onnxruntime-cpu", precision="fp16", cache_budget=size - 1)
    assert "give at least that" in str(caught.value)


def test_a_backend_that_keeps_no_budget(checkpoint: Path) -> None:
    with pytest.raises(InputError, match="the torch backend keeps no cache_budget; leave it out"):
        spd.load(checkpoint, size=(160, 192), cache_budget="1GB")


def test_on_a_cpu(exported: Path, cpu_model: Model, rooms, points: NDArray[np.float64]) -> None:
    expected = [cpu_model.encode(room).depth(points) for room in rooms]
    size = cache_nbytes(open_bundle(exported).manifest.contract, "fp32")
    with spd.load(exported, cpu_model.backend, cache_budget=2 * size) as small:
        scenes = [small.encode(room) for room in rooms]
        assert small._residency is not None
        assert small._residency.encodings == 3
        for scene, depth in zip(scenes, expected, strict=True):
            np.testing.assert_array_equal(scene.depth(points), depth)
        assert small._residency.encodings > 3


def test_tensorrt(tensorrt_11: Any, bundle: Path, model: Model, rooms, points: NDArray[np.float64]) -> None:
    """Two pieces of memory for three scenes; none is allocated for the third, and captured graphs stay in use."""
    expected = [model.encode(room).depth(points) for room in rooms]
    add_engines(bundle)
    with spd.load(bundle) as large:
        assert large._residency is not None
        size = large._residency.backend.cache_bytes
        assert size is not None
        live = tensorrt_11.live_bytes
        scene = large.encode(rooms[0])
        assert tensorrt_11.live_bytes - live == size, "a budget counts all that a scene takes"
        del scene
    del large
    gc.collect()
    with nothing_left(tensorrt_11):
        with spd.load(bundle, cache_budget=f"{2 * size}B") as small:
            live = tensorrt_11.live_bytes
            scenes = [small.encode(room) for room in rooms[:2]]
            scenes.append(small.encode(rooms[2]))
            for _ in range(2):
                for scene, depth in zip(scenes, expected, strict=True):
                    np.testing.assert_allclose(scene.depth(points), depth, rtol=1e-5)
                    assert tensorrt_11.live_bytes - live == 2 * size
        del small
        scenes[0].close()
        np.testing.assert_allclose(scenes[1].depth(points), expected[1], rtol=1e-5)
        del scenes, scene
