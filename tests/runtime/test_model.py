"""What a model does besides one image at a time: lists, videos, warming up, counting, routes; and its examples run."""

from __future__ import annotations

import doctest
import gc
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import spd
from spd.errors import BackendError, ImageError, InputError, SPDError
from spd.models import SPD
from spd.runtime import Model, Stats
from spd.runtime.backend import Backend

PATIENCE = 20.0


class Slow(Backend):
    """Depth is the image's value; encoding waits where it is told to. Says which caches are there."""

    name, precision, height, width, max_points, cache_bytes = "slow", "fp32", 32, 32, 4, 1000

    def __init__(self) -> None:
        self.live: list[int] = []
        self.began = [threading.Event() for _ in range(9)]
        self.may_end = [threading.Event() for _ in range(9)]
        self.queries: list[int] = []

    def encode(self, image: NDArray[np.uint8]) -> int:
        value = int(image.max())
        self.began[value].set()
        assert self.may_end[value].wait(PATIENCE)
        self.live.append(value)
        return value

    def decode(self, cache: int, points: NDArray[np.float32]) -> NDArray[np.float32]:
        self.queries.append(points.shape[1])
        return np.full(points.shape[:2], cache, np.float32)

    def release(self, cache: int) -> None:
        self.live.remove(cache)


def frame(value: int) -> NDArray[np.uint8]:
    return np.full((32, 32, 3), value, np.uint8)


@pytest.fixture
def slow() -> Slow:
    return Slow()


@pytest.fixture
def quick(slow: Slow) -> Slow:
    for event in slow.may_end:
        event.set()
    return slow


def test_a_list_of_images_gives_a_list_of_scenes(model: Model, rooms, points: NDArray[np.float64]) -> None:
    for images in (list(rooms), tuple(rooms), [rooms[0], torch.from_numpy(rooms[1])]):
        scenes = model.encode(images)
        assert isinstance(scenes, list)
        for scene, room in zip(scenes, rooms, strict=False):
            np.testing.assert_array_equal(scene.depth(points), model.encode(room).depth(points))
        assert len(scenes) == len(images)
    assert model.encode([]) == []


def test_a_list_with_a_bad_image_leaves_no_scene(quick: Slow) -> None:
    gc.disable()
    try:
        with pytest.raises(ImageError, match="of type NoneType"):
            Model(quick, None, []).encode([frame(1), frame(2), None])
        assert quick.live == []
    finally:
        gc.enable()


def test_the_next_frame_is_encoded_while_the_caller_has_one(slow: Slow) -> None:
    scenes = Model(slow, None, []).stream(frame(value) for value in range(3))
    slow.may_end[0].set()
    first = next(scenes)
    assert slow.began[1].wait(PATIENCE), "frame 1 is being encoded, and does not end"
    assert first.depth([(1, 1)]).tolist() == [0]
    slow.may_end[1].set()
    second = next(scenes)
    assert first.nbytes == 0, "closed when the next one was asked for"
    assert second.depth([(1, 1)]).tolist() == [1]
    slow.may_end[2].set()
    assert [scene.depth([(1, 1)]).tolist() for scene in scenes] == [[2]]
    assert slow.live == []


def test_whoever_leaves_a_video_early_leaves_nothing_behind(quick: Slow) -> None:
    read = []

    def frames() -> Iterator[NDArray[np.uint8]]:
        for value in range(9):
            read.append(value)
            yield frame(value)

    scenes = Model(quick, None, []).stream(frames())
    next(scenes)
    scenes.close()
    assert read in ([0], [0, 1])
    assert quick.live == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("spd-ahead")]


def test_a_bad_frame_is_an_error_where_its_scene_would_have_been(quick: Slow) -> None:
    frames: list[Any] = [frame(0), frame(1), Path("none.png"), frame(3)]
    scenes = Model(quick, None, []).stream(frames)
    assert [next(scenes).depth([(1, 1)]).tolist() for _ in range(2)] == [[0], [1]]
    with pytest.raises(ImageError, match=r"none.png does not exist"):
        next(scenes)
    assert not quick.began[3].is_set()
    assert quick.live == []


def test_a_path_is_no_video(quick: Slow) -> None:
    with pytest.raises(InputError, match=r"^frames is str, expected the images of a video"):
        next(Model(quick, None, []).stream("video.mp4"))


def test_a_video_on_a_real_model(cpu_model: Model, rooms, points: NDArray[np.float64]) -> None:
    for scene, room in zip(cpu_model.stream(rooms), rooms, strict=True):
        np.testing.assert_array_equal(scene.depth(points), cpu_model.encode(room).depth(points))


def test_warming_up_asks_for_every_count_and_leaves_nothing(quick: Slow) -> None:
    model = Model(quick, None, [])
    model.warm_up(points=(3, 6))
    assert quick.queries == [3, 4, 2] * 3
    assert quick.live == []
    with pytest.raises(InputError, match=r"points is \(4, 0\), expected numbers of at least 1"):
        model.warm_up(points=(4, 0))


def test_stats_count_what_is_there(quick: Slow) -> None:
    model = Model(quick, None, [], cache_budget=2000)
    assert model.stats() == Stats(encodings=0, evictions=0, scenes=0, bytes=0, graphs=0, fallbacks=0)
    scenes = [model.encode(frame(value)) for value in range(3)]
    assert model.stats() == Stats(encodings=3, evictions=1, scenes=2, bytes=2000, graphs=0, fallbacks=0)
    assert [scene.nbytes for scene in scenes] == [0, 1000, 1000]
    scenes[0].depth([(1, 1)])
    assert [scene.nbytes for scene in scenes] == [1000, 0, 1000]
    scenes[0].close()
    assert scenes[0].nbytes == 0
    assert model.stats() == Stats(encodings=4, evictions=2, scenes=1, bytes=1000, graphs=0, fallbacks=0)
    model.close()
    with pytest.raises(SPDError, match="the model is closed"):
        model.stats()


def test_routes_are_those_of_the_literal_network(
    model: Model, network: SPD, rooms, points: NDArray[np.float64]
) -> None:
    """As sets: the order of cells that are equally good is nobody's business."""
    pixels = torch.tensor(rooms[0].transpose(2, 0, 1)[None], dtype=torch.float32) / 255
    with torch.no_grad():
        _, expected = network.decode(network.encode(pixels), torch.tensor(points[None], dtype=torch.float32))
    routes = model.encode(rooms[0]).routes(points)
    assert (routes.dtype, routes.shape) == (np.int64, (300, network.config.routed_tokens))
    assert ((routes >= 0) & (routes < 30)).all()
    same = [set(a) == set(b) for a, b in zip(routes.tolist(), expected[0].tolist(), strict=True)]
    assert np.mean(same) > 0.99
    assert len({frozenset(row) for row in routes.tolist()}) > 20, "points differ"
    many = np.concatenate([points] * 2)
    np.testing.assert_array_equal(model.encode(rooms[0]).routes(many)[:300], routes)
    assert model.encode(rooms[0]).routes([]).shape == (0, 20)
    with pytest.raises(spd.errors.PointsError, match="outside"):
        model.encode(rooms[0]).routes([(-1, 0)])


def test_routes_that_are_not_there(quick: Slow) -> None:
    with pytest.raises(
        BackendError, match=r"^slow gives no routes: that takes a bundle exported with --with-routes, on "
    ):
        Model(quick, None, []).encode(frame(1)).routes([(1, 1)])


@pytest.mark.parametrize("backend", ["onnxruntime-cpu", "openvino"])
def test_a_backend_of_the_cpu_has_no_number_of_a_gpu(exported: Path, backend: str) -> None:
    with pytest.raises(BackendError, match=f"^device is the number of a GPU, but {backend} runs on the CPU"):
        spd.load(exported, backend, device=0)


@pytest.mark.parametrize("device", [-1, 2, True, "cuda:1", 0.5])
def test_what_is_no_number_of_a_gpu(exported: Path, monkeypatch: pytest.MonkeyPatch, device: Any) -> None:
    monkeypatch.setattr("spd.runtime.devices.gpus", lambda: 2)
    with pytest.raises(BackendError, match=r"^device is .*, expected the number of a GPU from 0 to 1$"):
        spd.load(exported, device=device)


def test_errors_are_there_and_nothing_heavy_is(tmp_path: Path) -> None:
    code = (
        "import sys, spd\n"
        "assert issubclass(spd.errors.ImageError, spd.errors.SPDError)\n"
        "heavy = {'numpy', 'PIL', 'torch', 'onnxruntime'} & {*sys.modules}\n"
        "assert not heavy, heavy\n"
        "assert 'spd.runtime' not in sys.modules\n"
        "spd.Model, spd.Scene, spd.Stats, spd.load\n"
        "assert not {'torch', 'onnxruntime'} & {*sys.modules}\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


EXAMPLES = [test for of in (spd.Model, spd.Scene) for test in doctest.DocTestFinder().find(of) if test.examples]


@pytest.mark.parametrize("example", EXAMPLES, ids=[re.sub(r".*runtime\.", "", test.name) for test in EXAMPLES])
def test_examples_run(model: Model, example: doctest.DocTest) -> None:
    scene = model.encode(np.zeros((480, 640, 3), np.uint8))
    example.globs = {"np": np, "model": model, "scene": scene}
    printed: list[str] = []
    doctest.DocTestRunner().run(example, out=printed.append)
    assert printed == []


def test_there_is_an_example_of_everything_that_can_be_shown() -> None:
    names = {test.name.rpartition(".")[2] for test in EXAMPLES}
    assert {"encode", "stream", "warm_up", "stats", "depth", "xyz"} <= names
