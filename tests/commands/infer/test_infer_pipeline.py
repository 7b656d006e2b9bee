"""Reading and encoding ahead of the queries, with steps that the tests hold up and let go."""

from __future__ import annotations

import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest

from spd.commands.infer import pipeline
from spd.commands.infer.pipeline import encoded_ahead
from spd.errors import BackendError, ImageError
from spd.runtime import ahead as runtime_ahead

COUNT = 6
"""Images of most tests."""
PATIENCE = 20.0
"""Seconds after which something that should happen is taken not to."""
MOMENT = 0.2
"""Seconds in which something that should not happen would, if it could."""


class Pixels:
    """An image that was read."""

    def __init__(self, index: int) -> None:
        self.index = index


class Steps:
    """A reader, a model and a caller that record their steps `read 0`, `load`, `encode 0`, `query 0`, `close 0`, ...

    It is also the model that `load` gives.
    """

    def __init__(self) -> None:
        names = ["load", *(f"{what} {i}" for what in ("read", "encode", "query", "close") for i in range(COUNT))]
        self.began = {name: threading.Event() for name in names}
        self.ended = {name: threading.Event() for name in names}
        self.inside: dict[str, Callable[[], object]] = {}
        """What a step does between its beginning and its end."""
        self.log: list[str] = []
        """Steps in the order in which they ended."""
        self.threads: dict[str, threading.Thread] = {}
        self.open: set[int] = set()
        """Scenes that are being encoded or not closed yet."""
        self.pixels: weakref.WeakSet[Pixels] = weakref.WeakSet()
        self.answered: list[int] = []
        self.stopping = threading.Event()
        """Set when the threads are told to end."""
        self.closed = False

    def step(self, name: str) -> None:
        self.threads[name] = threading.current_thread()
        self.began[name].set()
        try:
            self.inside.get(name, lambda: None)()
        finally:
            self.log.append(name)
            self.ended[name].set()

    def read(self, index: int) -> tuple[int, Any]:
        pixels = Pixels(index)
        self.pixels.add(pixels)
        self.step(f"read {index}")
        return index, pixels

    def load(self) -> Any:
        self.step("load")
        return self

    def __enter__(self) -> Steps:
        return self

    def __exit__(self, *_: object) -> None:
        assert not self.open, "a scene is open when the model is closed"
        assert not ahead(), "a thread still runs when the model is closed"
        self.closed = True

    def encode(self, pixels: Pixels) -> Scene:
        self.open.add(pixels.index)
        try:
            self.step(f"encode {pixels.index}")
        except BaseException:
            self.open.remove(pixels.index)
            raise
        return Scene(self, pixels.index)

    def work(self, count: int = COUNT) -> None:
        """Query every scene, as the command does."""
        with closing(encoded_ahead(range(count), self.read, self.load)) as images:
            for encoded in images:
                with encoded.scene:
                    self.step(f"query {encoded.question}")
                self.answered.append(encoded.question)

    def reached(self, what: str) -> list[int]:
        """Images that a step has begun for."""
        return [i for i in range(COUNT) if self.began[f"{what} {i}"].is_set()]


class Scene:
    def __init__(self, steps: Steps, index: int) -> None:
        self.steps, self.index = steps, index

    def __enter__(self) -> Scene:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def wait(self) -> None:
        pass

    def close(self) -> None:
        self.steps.step(f"close {self.index}")
        self.steps.open.discard(self.index)


def ahead() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(("spd-ahead", "spd-read"))]


def happens(event: threading.Event) -> None:
    assert event.wait(PATIENCE)


def fails(error: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[Steps]:
    steps = Steps()

    class Threads(ThreadPoolExecutor):
        def shutdown(self, *arguments: Any, **options: Any) -> None:
            steps.stopping.set()
            super().shutdown(*arguments, **options)

    for module in (pipeline, runtime_ahead):
        monkeypatch.setattr(module, "ThreadPoolExecutor", Threads)
    yield steps
    assert not steps.open
    assert not ahead()
    assert steps.closed == steps.ended["load"].is_set()


def test_reading_overlaps_encoding(steps: Steps) -> None:
    """No encoding ends before the next two images are read."""
    for i in range(COUNT - 1):
        near = range(i + 1, min(i + 3, COUNT))
        steps.inside[f"encode {i}"] = lambda near=near: [happens(steps.ended[f"read {j}"]) for j in near]
    steps.work()
    assert steps.answered == list(range(COUNT))


def test_two_images_are_read_while_one_is_encoded(steps: Steps) -> None:
    together = threading.Barrier(3)
    for step in ("encode 0", "read 1", "read 2"):
        steps.inside[step] = lambda: together.wait(PATIENCE)
    steps.work()
    assert steps.answered == list(range(COUNT))


def test_queries_overlap_the_next_encoding(steps: Steps) -> None:
    both = threading.Barrier(2)
    for i in range(COUNT - 1):
        steps.inside[f"query {i}"] = steps.inside[f"encode {i + 1}"] = lambda: both.wait(PATIENCE)
    steps.work()
    assert steps.answered == list(range(COUNT))


def test_no_more_than_two_images_are_read_ahead(steps: Steps) -> None:
    def encode(i: int) -> None:
        for near in (i + 1, i + 2):
            happens(steps.ended[f"read {near}"])
        assert not steps.began[f"read {i + 3}"].wait(MOMENT)

    for i in range(COUNT - 3):
        steps.inside[f"encode {i}"] = lambda i=i: encode(i)
    steps.work()
    assert steps.answered == list(range(COUNT))


def test_no_more_than_two_scenes_are_open(steps: Steps) -> None:
    def query(i: int) -> None:
        happens(steps.ended[f"encode {i + 1}"])
        happens(steps.ended[f"read {i + 2}"])
        assert not steps.began[f"encode {i + 2}"].wait(MOMENT)
        assert steps.open == {i, i + 1}

    for i in range(COUNT - 2):
        steps.inside[f"query {i}"] = lambda i=i: query(i)
    steps.work()
    assert steps.answered == list(range(COUNT))


def test_pixels_go_once_they_are_encoded(steps: Steps) -> None:
    """While the first image is queried and the second encoded, the second and two more are in memory."""

    def query() -> None:
        happens(steps.began["encode 1"])
        happens(steps.ended["read 3"])
        deadline = time.monotonic() + PATIENCE  # a thread lets go of an image a little after its encoding has ended
        while kept() != {1, 2, 3} and time.monotonic() < deadline:
            time.sleep(0.001)
        assert kept() == {1, 2, 3}

    def kept() -> set[int]:
        return {pixels.index for pixels in list(steps.pixels)}

    steps.inside["query 0"] = query
    steps.inside["encode 1"] = lambda: happens(steps.ended["query 0"])
    steps.work()
    assert steps.answered == list(range(COUNT))


def test_order_is_kept_when_a_later_image_is_read_first(steps: Steps) -> None:
    for i in range(1, COUNT - 1, 2):
        steps.inside[f"read {i}"] = lambda i=i: happens(steps.ended[f"read {i + 1}"])
    steps.work()
    assert steps.log.index("read 2") < steps.log.index("read 1")
    assert steps.answered == list(range(COUNT))


def test_the_model_is_loaded_after_the_first_image_and_by_itself(steps: Steps) -> None:
    steps.inside["load"] = lambda: time.sleep(MOMENT)
    steps.work()
    assert steps.log[:2] == ["read 0", "load"]
    here = threading.current_thread()
    assert {name for name, thread in steps.threads.items() if thread is here} == {
        "read 0",
        "load",
        *(f"{what} {i}" for what in ("query", "close") for i in range(COUNT)),
    }


def test_one_image_needs_no_threads(steps: Steps) -> None:
    steps.work(1)
    assert steps.log == ["read 0", "load", "encode 0", "query 0", "close 0"]
    assert set(steps.threads.values()) == {threading.current_thread()}
    assert not steps.stopping.is_set()  # there was no pool at all


def test_no_images(steps: Steps) -> None:
    steps.work(0)
    assert steps.log == []


@pytest.mark.parametrize("step", ["read 0", "load"])
def test_nothing_more_is_begun_if_the_first_image_or_the_model_fails(steps: Steps, step: str) -> None:
    steps.inside[step] = fails(ImageError(step))
    with pytest.raises(ImageError, match=step):
        steps.work()
    assert steps.log == {"read 0": ["read 0"], "load": ["read 0", "load"]}[step]
    steps.closed = steps.ended["load"].is_set()  # what failed to load cannot be closed


@pytest.mark.parametrize("error", [ImageError, AssertionError, KeyboardInterrupt])
@pytest.mark.parametrize("step", ["read 2", "encode 2", "query 2"])
def test_the_first_error_in_order_is_raised(steps: Steps, step: str, error: type[BaseException]) -> None:
    """The third image fails; the fourth, which is read at the same time, has failed before it."""
    steps.inside["read 2"] = lambda: happens(steps.ended["read 3"])
    steps.inside["read 3"] = fails(ImageError("read 3"))
    first = fails(error(step))
    steps.inside[step] = (lambda: (happens(steps.ended["read 3"]), first())) if step == "read 2" else first
    with pytest.raises(error, match=step):
        steps.work()
    assert steps.answered == [0, 1]
    assert steps.reached("encode") == ([0, 1] if step == "read 2" else [0, 1, 2])


def test_after_an_error_the_encoding_under_way_is_waited_for_and_given_up(steps: Steps) -> None:
    def query() -> None:
        happens(steps.began["encode 3"])
        raise BackendError("query 2")

    steps.inside["query 2"] = query
    steps.inside["encode 3"] = lambda: happens(steps.stopping)
    with pytest.raises(BackendError, match="query 2"):
        steps.work()
    assert steps.ended["encode 3"].is_set()
    assert steps.ended["close 3"].is_set()
    assert steps.reached("encode") == [0, 1, 2, 3]
    assert steps.reached("query") == [0, 1, 2]


def test_after_an_error_no_image_is_encoded_that_was_still_being_read(steps: Steps) -> None:
    def query() -> None:
        happens(steps.began["read 3"])
        time.sleep(MOMENT)  # a thread begins to wait for it, to encode it
        raise BackendError("query 2")

    steps.inside["query 2"] = query
    steps.inside["read 3"] = lambda: happens(steps.stopping)
    with pytest.raises(BackendError, match="query 2"):
        steps.work()
    assert steps.reached("encode") == [0, 1, 2]


needs_signals = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pthread_kill")


@needs_signals
@pytest.mark.parametrize("step", ["read 3", "encode 2"])
def test_ctrl_c_while_waiting_for_a_thread(steps: Steps, step: str) -> None:
    """The interrupt is answered while the step still runs; it is waited for, and nothing else is begun."""
    here = threading.main_thread().ident
    assert here is not None

    def interrupt() -> None:
        happens(steps.ended["query 1" if step == "encode 2" else "query 2"])
        signal.pthread_kill(here, signal.SIGINT)
        happens(steps.stopping)

    steps.inside[step] = interrupt
    with pytest.raises(KeyboardInterrupt):
        steps.work()
    assert steps.ended[step].is_set()
    assert steps.reached("encode") == [0, 1, 2]
