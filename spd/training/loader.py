"""Batches in their order, prepared by processes beside the training.

Batches come through pipes, one for each process. torch's DataLoader takes shared memory, of which a container has 64 MB
by default: 8 batches of 8 images of 480x640 are 59 MB. Where it is full, or where a process dies, a pipe says so at
once, and torch's loader waits for a batch that never comes.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from multiprocessing.connection import Connection
from threading import Thread
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from spd.data.pairs import Pairs
from spd.errors import DataError, TrainingError
from spd.training.samples import Batch, FirstPairs, Numbers, Samples, epoch_length
from spd.training.settings import Settings

LOOK_EVERY = 0.2
"""Seconds between two looks at whether a batch is still wanted."""

LAST_STEP = 120
"""Seconds for which a worker that gets SIGTERM goes on, so that the step under way gets its batch."""


@dataclass(frozen=True)
class Reading:
    """How the processes of a run share the data."""

    rank: int = 0
    """Number of this process among `world`."""
    world: int = 1
    """Processes that train."""
    workers: int = 0
    """Processes of this process that prepare batches; 0 prepares them in between."""
    pin: bool = False
    """Put batches where a GPU copies them from by itself."""


class Loader:
    """The batches of a process, again and again; use it in a `with`, which ends the workers."""

    def __init__(self, samples: Samples, numbers: Iterable[list[int]], reading: Reading) -> None:
        """Start the workers, which begin at once.

        Args:
            samples: what batches are made of.
            numbers: sample numbers of each batch of a pass, or without end.
            reading: says how many workers; no more than there are batches.
        """
        self.samples, self.numbers, self.pin = samples, numbers, reading.pin
        self._workers: list[_Worker] = []
        for first in range(reading.workers):
            self._workers.append(_Worker(samples, numbers, first, reading.workers))

    def __enter__(self) -> Loader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the workers."""
        while self._workers:
            self._workers.pop().end()

    def batches(self, unwanted: Callable[[], bool] = lambda: False) -> Iterator[Batch]:
        """One pass over the batches; take it to its end before the next.

        Args:
            unwanted: asked while a worker is waited for; ends the pass where it says yes.

        Raises:
            DataError: the data cannot be used.
            TrainingError: a worker died.
        """
        for index, numbers in enumerate(self.numbers):
            if self._workers:
                batch = self._workers[index % len(self._workers)].receive(unwanted)
            else:
                batch = self.samples.batch(numbers)
            if batch is None:
                return
            if isinstance(batch, DataError):
                raise batch
            yield _pinned(batch) if self.pin else batch


def training_batches(pairs: Pairs, settings: Settings, step: int, reading: Reading) -> Loader:
    """Batches of a process from step `step` on, without end."""
    numbers = Numbers(epoch_length(pairs, settings), settings, step, reading.rank, reading.world)
    if settings.overfit:
        pairs = FirstPairs(pairs, settings.overfit)
    return Loader(Samples(pairs, settings, train=True), numbers, reading)


def validation_batches(pairs: Pairs, settings: Settings, reading: Reading) -> Loader:
    """The share of a process in the pairs to validate on, in each pass.

    Neighbours in a data set on disk show the same room, so the pairs are spread over all of it.
    """
    images = min(len(pairs), settings.overfit or settings.val_images)
    first = settings.overfit is not None or pairs.rendered
    numbers = list(range(images)) if first else [index * len(pairs) // images for index in range(images)]
    share = numbers[reading.rank :: reading.world]
    parts = [share[start : start + settings.batch] for start in range(0, len(share), settings.batch)]
    reading = replace(reading, workers=min(reading.workers, len(parts)))
    return Loader(Samples(pairs, settings, train=False), parts, reading)


class _Worker:
    """A process that prepares every so many-th batch, and this end of its pipe."""

    def __init__(self, samples: Samples, numbers: Iterable[list[int]], first: int, step: int) -> None:
        self._receiver, sender = multiprocessing.Pipe(duplex=False)
        self._process = multiprocessing.Process(
            target=_prepare, args=(sender, samples, numbers, first, step), daemon=True
        )
        self._process.start()
        sender.close()  # so that the pipe ends with the process

    def receive(self, unwanted: Callable[[], bool]) -> Batch | DataError | None:
        """The next batch, an error in its place, or None if it is not wanted any more.

        Raises:
            TrainingError: the process died.
        """
        try:
            while not self._receiver.poll(LOOK_EVERY):
                if unwanted():
                    return None
            received: Any = self._receiver.recv()
        except (EOFError, OSError) as error:
            self._process.join()
            raise TrainingError(
                f"a process that prepares batches died ({_ending(self._process.exitcode)}); if memory ran out, "
                "--resume with fewer --workers"
            ) from error
        return received if isinstance(received, DataError) else _tensors(received)

    def end(self) -> None:
        """End the process: it holds nothing that has to be written."""
        self._process.kill()
        self._process.join()
        self._process.close()
        self._receiver.close()


def _prepare(sender: Connection, samples: Samples, numbers: Iterable[list[int]], first: int, step: int) -> None:
    """Send the batches `first`, `first + step`, ... of every pass, until the process ends."""
    _keep_from_signals()
    Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    while True:
        for batch_numbers in islice(numbers, first, None, step):
            batch = samples.batch(batch_numbers)
            sender.send(batch if isinstance(batch, DataError) else _arrays(batch))


def _end_with_parent() -> None:
    """End this process when the one that trains is gone; its pipe stays open in the workers that were forked later."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(0)


def _keep_from_signals() -> None:
    """Signals to all processes of a terminal, a group or a job are for the main one, whose step needs its batch."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "alarm"):  # not on Windows
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(LAST_STEP))
    if hasattr(os, "setpgid"):  # not on Windows
        os.setpgid(0, 0)


def _ending(exitcode: int | None) -> str:
    """How a process ended, such as SIGKILL or exit code 1."""
    if exitcode is not None and exitcode < 0:
        return signal.Signals(-exitcode).name
    return f"exit code {exitcode}"


def _arrays(batch: Batch) -> dict[str, Any]:
    """A batch as it is sent: tensors would go through shared memory."""
    return {name: value.numpy() if isinstance(value, Tensor) else value for name, value in batch.items()}


def _tensors(sent: dict[str, Any]) -> Batch:
    """The batch that `_arrays` took apart."""
    image, points, depth = (torch.from_numpy(sent[name]) for name in ("image", "points", "depth"))
    return Batch(image=image, points=points, depth=depth, skipped=sent["skipped"])


def _pinned(batch: Batch) -> Batch:
    """The batch in memory that a GPU copies from by itself."""
    image, points, depth = (batch[name].pin_memory() for name in ("image", "points", "depth"))
    return Batch(image=image, points=points, depth=depth, skipped=batch["skipped"])
