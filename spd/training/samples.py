"""From pairs to batches: the same batches for the same settings, whatever was interrupted and resumed in between."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from spd.data.augment import CENTRED, Placement, jitter_colours, place
from spd.data.pairs import Pair, Pairs
from spd.data.query_sampler import sample_queries
from spd.errors import DataError
from spd.evaluation.points import counted
from spd.training.settings import EPOCH_OF_ROOMS, Settings

TRIES = 20
"""Broken pairs one after the other after which the data set, not a file, is at fault."""

LAST_STEP = 120
"""Seconds for which a worker that gets SIGTERM goes on, so that the step under way gets its batch."""

_TRAIN, _VALIDATE = 0, 1


class Batch(TypedDict):
    """What the loaders give."""

    image: Tensor
    """uint8 [B, 3, H, W], RGB."""
    points: Tensor
    """float32 [B, K, 2], (u, v) in pixels of the image."""
    depth: Tensor
    """float32 [B, K], metres."""
    skipped: list[str]
    """Why pairs were left out and others taken in their place."""


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


class Samples(Dataset[Batch]):
    """Pairs as images of one size with queries; a batch of one each."""

    def __init__(self, pairs: Pairs, settings: Settings, *, train: bool) -> None:
        """`train` draws queries and augmentation anew for each epoch; otherwise they are always the same."""
        self.pairs = pairs
        self.settings = settings
        self.train = train
        varies = train and settings.overfit is None
        self.augment = varies and settings.augment and not pairs.rendered
        self.first = 0
        if varies and pairs.rendered:  # a run that begins with the weights of another sees new rooms by another seed
            self.first = int(np.random.default_rng([settings.seed]).integers(len(pairs)))

    def __getitem__(self, number: int) -> Batch:
        """Sample `number`, which counts on through the epochs: pair `number` modulo the length of the data.

        Of training data without end the count starts anywhere, as the seed says.

        A pair that cannot be used is replaced by any other; those beside it are of the same folder, and may be broken,
        too.

        Raises:
            DataError: `TRIES` pairs cannot be used one after the other.
        """
        settings = self.settings
        skipped: list[str] = []
        for shift in range(TRIES):
            rng = np.random.default_rng([settings.seed, number, shift, _TRAIN if self.train else _VALIDATE])
            try:
                index = rng.integers(len(self.pairs)) if shift else self.first + number
                pair = self._placed(self._counted(self.pairs[int(index) % len(self.pairs)]), rng)
            except DataError as error:
                skipped.append(str(error))
                continue
            edge_share = settings.edge_share if self.train else 0.0
            points, depth = sample_queries(pair.depth, settings.points, rng, edge_share=edge_share)
            image = torch.from_numpy(np.ascontiguousarray(pair.image.transpose(2, 0, 1)))
            return Batch(
                image=image[None],
                points=torch.from_numpy(points)[None],
                depth=torch.from_numpy(depth)[None],
                skipped=skipped,
            )
        raise DataError(f"{TRIES} pairs one after the other cannot be used, the last because {skipped[-1]}")

    def __getitems__(self, numbers: Sequence[int]) -> Batch | DataError:
        """A batch of several samples, asked for by torch's loader under this name.

        An error is returned, as one that is raised arrives from a worker with a traceback in the place of its message.
        """
        try:
            samples = [self[number] for number in numbers]
        except DataError as error:
            return error
        return Batch(
            image=torch.cat([sample["image"] for sample in samples]),
            points=torch.cat([sample["points"] for sample in samples]),
            depth=torch.cat([sample["depth"] for sample in samples]),
            skipped=[reason for sample in samples for reason in sample["skipped"]],
        )

    def _counted(self, pair: Pair) -> Pair:
        """The pair with the depth that counts: to validate on, that of the paper's protocol (its section 8)."""
        if self.train:
            return pair
        counts = counted(pair.depth, eigen_crop=not self.pairs.rendered)
        return replace(pair, depth=np.where(counts, pair.depth, np.float32(0)))

    def _placed(self, pair: Pair, rng: np.random.Generator) -> Pair:
        """The pair as an image of the settings' size."""
        if self.augment:
            pair = Pair(jitter_colours(pair.image, rng), pair.depth, pair.name, pair.cut_from)
        placement = Placement.draw(rng) if self.augment else CENTRED
        placed = place(pair, self.settings.height, self.settings.width, placement)
        if not (placed.depth > 0).any():
            raise DataError(f"{pair.name} has no depth left after resizing and cropping")
        return placed


class Numbers(Sampler[int]):
    """Sample numbers of one process from a step on, without end: each epoch all of the data in an order of its own."""

    def __init__(self, length: int, settings: Settings, step: int, rank: int, world: int) -> None:
        self.length, self.seed, self.batch = length, settings.seed, settings.batch
        self.step, self.rank, self.world = step, rank, world

    def __iter__(self) -> Iterator[int]:
        order, epoch = np.empty(0, np.int64), -1
        position = self.step * self.world * self.batch
        while True:
            for offset in range(self.rank * self.batch, (self.rank + 1) * self.batch):
                wanted, index = divmod(position + offset, self.length)
                if wanted != epoch:
                    order, epoch = np.random.default_rng([self.seed, wanted]).permutation(self.length), wanted
                yield epoch * self.length + int(order[index])
            position += self.world * self.batch


def epoch_length(pairs: Pairs, settings: Settings) -> int:
    """Samples of one epoch."""
    length = EPOCH_OF_ROOMS if pairs.rendered else len(pairs)
    return min(length, settings.overfit or length)


def training_batches(pairs: Pairs, settings: Settings, step: int, reading: Reading) -> DataLoader[Batch]:
    """Batches of a process from step `step` on, without end; read them with `received`."""
    numbers = Numbers(epoch_length(pairs, settings), settings, step, reading.rank, reading.world)
    samples = Samples(_Cut(pairs, settings.overfit) if settings.overfit else pairs, settings, train=True)
    return _loader(samples, numbers, reading)


def validation_batches(pairs: Pairs, settings: Settings, reading: Reading) -> DataLoader[Batch]:
    """The share of a process in the pairs to validate on; read them with `received`.

    Neighbours in a data set on disk show the same room, so the pairs are spread over all of it.
    """
    count = min(len(pairs), settings.overfit or settings.val_images)
    first = settings.overfit is not None or pairs.rendered
    numbers = range(count) if first else [index * len(pairs) // count for index in range(count)]
    return _loader(Samples(pairs, settings, train=False), numbers[reading.rank :: reading.world], reading)


def received(loader: DataLoader[Batch]) -> Iterator[Batch]:
    """What a loader gives; its workers start at once.

    Raises:
        DataError: the data cannot be used.
    """
    return _checked(iter(loader))


def _checked(batches: Iterator[Batch | DataError]) -> Iterator[Batch]:
    for batch in batches:
        if isinstance(batch, DataError):
            break
        yield batch
    else:
        return
    del batches  # ends the workers, which the traceback would keep
    raise batch


class _Cut:
    """The first pairs of a data set."""

    def __init__(self, pairs: Pairs, length: int) -> None:
        self.pairs, self.length = pairs, min(length, len(pairs))
        self.title, self.rendered, self.description = pairs.title, pairs.rendered, pairs.description

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Pair:
        return self.pairs[index]


def _loader(samples: Samples, numbers: Sampler[int] | Sequence[int], reading: Reading) -> DataLoader[Batch]:
    return DataLoader(
        samples,
        batch_size=samples.settings.batch,
        sampler=numbers,
        num_workers=reading.workers,
        collate_fn=_as_it_is,
        pin_memory=reading.pin,
        worker_init_fn=_apart,
        prefetch_factor=4 if reading.workers else None,
        persistent_workers=reading.workers > 0,
    )


def _as_it_is(batch: Any) -> Any:
    """`Samples.__getitems__` has put it together."""
    return batch


def _apart(_: int) -> None:
    """Signals to all processes of a terminal, a group or a job are for the main one: a worker that dies fails the step.

    The loader, too, ends with SIGTERM what does not end by itself, so that after some time it is heeded.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "alarm"):  # not on Windows
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(LAST_STEP))
    if hasattr(os, "setpgid"):  # not on Windows
        os.setpgid(0, 0)
