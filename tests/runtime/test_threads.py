"""`Model.encode` and `Scene.depth` from eight threads at once."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import spd.errors
import spd.images
from spd.runtime import Model, load

THREADS = 8


def at_once(work: Callable[[int], Any]) -> list[Any]:
    """Results of work(0), work(1), ..., started together in threads of their own."""
    barrier = threading.Barrier(THREADS)

    def started_together(i: int) -> Any:
        barrier.wait(timeout=60)
        return work(i)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(started_together, range(THREADS)))


@pytest.fixture
def files(tmp_path: Path, rooms) -> list[Path]:
    paths = [tmp_path / f"{i}.png" for i in range(len(rooms))]
    for path, room in zip(paths, rooms, strict=True):
        Image.fromarray(room).save(path)
    return paths


@pytest.mark.parametrize(
    ("backend", "precision"), [("onnxruntime-cpu", "fp32"), ("onnxruntime-cpu", "fp16"), ("openvino", "fp32")]
)
def test_threads_get_what_one_thread_gets(
    exported: Path, backend: str, precision: str, files: list[Path], points
) -> None:
    """Each encodes images from files and queries them in its own order, several times."""
    with load(exported, backend=backend, precision=precision) as model:
        expected = [model.encode(path).depth(points) for path in files]

        def work(i: int) -> list[tuple[int, NDArray[np.float32]]]:
            answers = []
            for turn in range(2):
                which = (i + turn) % len(files)
                with model.encode(files[which]) as scene:
                    answers += [(which, scene.depth(points)) for _ in range(2)]
            return answers

        answers = [answer for thread in at_once(work) for answer in thread]
    assert len(answers) == THREADS * 4
    for which, depth in answers:
        np.testing.assert_allclose(depth, expected[which], rtol=1e-6)


def test_threads_share_one_scene(cpu_model: Model, rooms, points: NDArray[np.float64]) -> None:
    with cpu_model.encode(rooms[0]) as scene:
        expected = [scene.depth(points[i::THREADS]) for i in range(THREADS)]
        answers = at_once(lambda i: [scene.depth(points[i::THREADS]) for _ in range(5)])
    for i, several in enumerate(answers):
        for depth in several:
            np.testing.assert_allclose(depth, expected[i], rtol=1e-6)


def test_torch_from_threads(checkpoint: Path, rooms, points: NDArray[np.float64]) -> None:
    points = points[:40]
    with load(checkpoint, size=(160, 192)) as model:
        expected = [model.encode(room).depth(points) for room in rooms]
        answers = at_once(lambda i: model.encode(rooms[i % len(rooms)]).depth(points))
    for i, depth in enumerate(answers):
        np.testing.assert_allclose(depth, expected[i % len(rooms)], rtol=1e-6)


def test_errors_stay_in_their_thread(cpu_model: Model, files: list[Path], points: NDArray[np.float64]) -> None:
    """Every other thread reads a file that is no image."""
    bad = files[0].with_name("bad.png")
    bad.write_text("no image")
    expected = cpu_model.encode(files[0]).depth(points)

    def work(i: int) -> NDArray[np.float32] | str:
        try:
            return cpu_model.encode(bad if i % 2 else files[0]).depth(points)
        except spd.errors.ImageError as error:
            return str(error)

    for i, answer in enumerate(at_once(work)):
        if i % 2:
            assert "bad.png is not an image" in answer
        else:
            np.testing.assert_allclose(answer, expected, rtol=1e-6)


def test_reading_images_in_two_threads_leaves_the_warning_filters_alone(
    monkeypatch: pytest.MonkeyPatch, files: list[Path]
) -> None:
    """The first thread begins, the second begins, the first ends, the second ends."""
    first_began, second_began, first_ended = (threading.Event() for _ in range(3))
    turn = spd.images.reading._turn

    def waits(image: Image.Image, pixels: Image.Image) -> Image.Image:
        if threading.current_thread().name == "first":
            first_began.set()
            assert second_began.wait(timeout=60)
        else:
            second_began.set()
            assert first_ended.wait(timeout=60)
        return turn(image, pixels)

    monkeypatch.setattr("spd.images.reading._turn", waits)
    before = list(warnings.filters)
    first = threading.Thread(target=spd.images.read_image, args=(files[0],), name="first")
    second = threading.Thread(target=spd.images.read_image, args=(files[1],), name="second")
    first.start()
    assert first_began.wait(timeout=60)
    second.start()
    first.join()
    first_ended.set()
    second.join()
    assert list(warnings.filters) == before


def test_the_number_of_threads_of_torch(checkpoint: Path) -> None:
    before = torch.get_num_threads()
    try:
        for wanted in (1, 2):
            with load(checkpoint, size=(160, 192), threads=wanted):
                assert torch.get_num_threads() == wanted
        with load(checkpoint, size=(160, 192)):
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
