"""Batches and the processes that prepare them: what comes in which order, and what happens when one of them ends."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import select
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image
from training_support import PLAIN, SMALL, Pictures, shown

from spd.data.pairs import Pair
from spd.data.rooms import RoomPairs
from spd.errors import DataError, TrainingError
from spd.preprocess import Letterbox
from spd.training.loader import Reading, training_batches, validation_batches
from spd.training.samples import TRIES, Batch
from spd.training.settings import Settings


def first_batches(pairs: Pictures, given: Settings, count: int, reading: Reading | None = None) -> list[Batch]:
    with training_batches(pairs, given, 0, reading or Reading()) as loader:
        return list(itertools.islice(loader.batches(), count))


@pytest.mark.parametrize("workers", [0, 2])
def test_batches(workers: int) -> None:
    batches = first_batches(Pictures(8), PLAIN, 4, Reading(workers=workers))
    assert [*Counter(itertools.chain(*map(shown, batches))).values()] == [2] * 8
    batch = batches[0]
    assert batch["image"].dtype == torch.uint8
    assert batch["image"].shape == (4, 3, 128, 160)
    assert (batch["points"].shape, batch["depth"].shape) == ((4, 8, 2), (4, 8))
    assert batch["points"].dtype == batch["depth"].dtype == torch.float32
    assert batch["skipped"] == []
    letterbox = Letterbox.fit(64, 48, 160, 128)
    for number, image in zip(shown(batch), batch["image"], strict=True):
        expected = letterbox.apply(Image.fromarray(Pictures(8)[number].image))
        assert (image.permute(1, 2, 0).numpy() == expected).all()


def test_workers_change_nothing() -> None:
    given = replace(SMALL, batch=3)
    for one, other in zip(
        *(first_batches(Pictures(5), given, 4, Reading(workers=workers)) for workers in (0, 2)), strict=True
    ):
        assert all(torch.equal(one[name], other[name]) for name in ("image", "points", "depth"))


@pytest.mark.parametrize("workers", [0, 1])
def test_all_pairs_broken_is_one_line(workers: int) -> None:
    broken = Pictures(3, broken=(0, 1, 2))
    with pytest.raises(
        DataError, match=rf"^{TRIES} pairs one after the other .* because depth_\d.png is cut off; copy .*$"
    ):
        first_batches(broken, PLAIN, 1, Reading(workers=workers))


def bus_error() -> None:
    """What touching shared memory that is full does."""
    signal.signal(signal.SIGBUS, signal.SIG_DFL)  # pytest's handler prints where
    os.kill(os.getpid(), signal.SIGBUS)


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "SIGKILL"),
        (bus_error, "SIGBUS"),
        (lambda: os._exit(3), "exit code 3"),
    ],
)
def test_a_worker_that_dies(end: Callable[[], None], words: str) -> None:
    class Deadly(Pictures):
        def __getitem__(self, index: int) -> Pair:
            if index == 0:
                end()
            time.sleep(1000)  # as the other worker does, which nobody waits for
            raise AssertionError

    began = time.monotonic()
    with pytest.raises(
        TrainingError, match=rf"^a process that prepares batches died \({words}\); .*--resume with fewer --workers$"
    ):
        first_batches(Deadly(2), replace(PLAIN, batch=1), 2, Reading(workers=2))
    assert time.monotonic() - began < 5


def test_a_worker_that_dies_while_it_sends() -> None:
    """A batch is more than a pipe holds; the rest of it never comes."""
    with training_batches(Pictures(8), PLAIN, 0, Reading(workers=1)) as loader:
        batches = loader.batches()
        next(batches)
        (worker,) = multiprocessing.active_children()
        assert loader._workers[0]._receiver.poll(10)  # it has begun to send the next
        worker.kill()
        with pytest.raises(TrainingError, match=r"^a process that prepares batches died \(SIGKILL\)"):
            next(batches)


class Stuck(Pictures):
    """Pictures that cannot be read to an end, as on a file server that is gone; SIGTERM changes nothing."""

    def __getitem__(self, index: int) -> Pair:
        time.sleep(1000)
        raise AssertionError


def test_workers_end_with_their_loader() -> None:
    """At once, whatever they do."""
    began = time.monotonic()
    with training_batches(Stuck(8), PLAIN, 0, Reading(workers=2)):
        assert len(multiprocessing.active_children()) == 2
    assert multiprocessing.active_children() == []
    assert time.monotonic() - began < 5


def test_a_batch_that_is_not_wanted_any_more_is_not_waited_for() -> None:
    wanted = iter([True, True, False])
    with training_batches(Stuck(8), PLAIN, 0, Reading(workers=1)) as loader:
        assert list(loader.batches(unwanted=lambda: not next(wanted))) == []


def trained_and_killed(given: Settings) -> None:
    loaders = [training_batches(pairs, given, 0, Reading(workers=2)) for pairs in (Pictures(8), Stuck(8))]
    next(loaders[0].batches())
    os.kill(os.getpid(), signal.SIGKILL)


def test_workers_end_with_the_process_that_trains() -> None:
    """However that ends and whatever they do: a pipe that all of them inherit is closed at last."""
    end, inherited = os.pipe()
    training = multiprocessing.Process(target=trained_and_killed, args=(PLAIN,))
    training.start()
    os.close(inherited)
    training.join()
    assert training.exitcode == -signal.SIGKILL
    assert select.select([end], [], [], 10)[0]
    assert os.read(end, 1) == b""
    os.close(end)


def test_batches_need_no_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container has 64 MB of it; a tensor that is sent as one takes all of its bytes from there."""

    def refuse(*_: Any) -> None:
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    monkeypatch.setattr(torch.UntypedStorage, "_share_fd_cpu_", refuse)
    monkeypatch.setattr(torch.UntypedStorage, "_share_filename_cpu_", refuse)
    batches = first_batches(Pictures(8), PLAIN, 3, Reading(workers=2))
    assert not any(batch[name].is_shared() for batch in batches for name in ("image", "points", "depth"))


def test_signals_for_all_do_not_reach_workers() -> None:
    """Neither those of a terminal and a process group, nor Ctrl-C in other ways."""

    class Telling(Pictures):
        def __getitem__(self, index: int) -> Pair:
            if index == 0:
                raise DataError(f"{os.getpgid(0) == os.getpid()} {signal.getsignal(signal.SIGINT) == signal.SIG_IGN}")
            return super().__getitem__(index)

    (batch,) = first_batches(Telling(4), PLAIN, 1, Reading(workers=1))
    assert batch["skipped"] == ["True True"]


def validated(pairs: Pictures | RoomPairs, given: Settings, world: int = 1) -> list[list[int]]:
    """Sample numbers of each process."""
    loaders = (validation_batches(pairs, given, Reading(rank, world)) for rank in range(world))
    return [list(itertools.chain(*loader.numbers)) for loader in loaders]


def test_what_is_validated() -> None:
    given = replace(PLAIN, val_images=4)
    assert validated(Pictures(100), given) == [[0, 25, 50, 75]]
    assert validated(Pictures(100), given, world=3) == [[0, 75], [25], [50]]
    assert validated(Pictures(3), given) == [[0, 1, 2]]
    assert validated(Pictures(3), given, world=4) == [[0], [1], [2], []]
    assert validated(RoomPairs(64, 96), given) == [[0, 1, 2, 3]]
    assert validated(Pictures(100), replace(given, overfit=3)) == [[0, 1, 2]]


@pytest.mark.parametrize("workers", [0, 2, 5])
def test_each_validation_is_the_same(workers: int) -> None:
    """Three batches, the last of which is smaller; no worker without one."""
    given = replace(PLAIN, val_images=10)
    with validation_batches(Pictures(100), given, Reading(workers=workers)) as loader:
        assert len(multiprocessing.active_children()) == min(workers, 3)
        first, second = (list(loader.batches()) for _ in range(2))
    assert [shown(batch) for batch in first] == [[0, 10, 20, 30], [40, 50, 60, 70], [80, 90]]
    for one, other in zip(first, second, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in ("image", "points", "depth"))


def test_overfit_reads_no_more_than_its_pairs() -> None:
    batches = first_batches(Pictures(50), replace(PLAIN, overfit=3, batch=3), 5)
    assert [sorted(shown(batch)) for batch in batches] == [[0, 1, 2]] * 5
