"""From pairs to batches: the same batches for the same settings, whatever was interrupted and resumed in between."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor

from spd.data.augment import CENTRED, Placement, jitter_colours, place
from spd.data.pairs import Pair, Pairs
from spd.data.query_sampler import sample_queries
from spd.errors import DataError
from spd.evaluation.points import counted
from spd.training.settings import EPOCH_OF_ROOMS, Settings

TRIES = 20
"""Broken pairs one after the other after which the data set, not a file, is at fault."""

_TRAIN, _VALIDATE = 0, 1


class Batch(TypedDict):
    """Images with queries and their true depth."""

    image: Tensor
    """uint8 [B, 3, H, W], RGB."""
    points: Tensor
    """float32 [B, K, 2], (u, v) in pixels of the image."""
    depth: Tensor
    """float32 [B, K], metres."""
    skipped: list[str]
    """Why pairs were left out and others taken in their place."""


class Samples:
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

    def batch(self, numbers: Sequence[int]) -> Batch | DataError:
        """A batch of several samples; an error is returned, so that it can be sent to another process."""
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


class Numbers:
    """Sample numbers of the batches of one process from a step on, without end.

    Each epoch is all of the data in an order of its own.
    """

    def __init__(self, length: int, settings: Settings, step: int, rank: int, world: int) -> None:
        self.length, self.seed, self.batch = length, settings.seed, settings.batch
        self.step, self.rank, self.world = step, rank, world

    def __iter__(self) -> Iterator[list[int]]:
        order, epoch = np.empty(0, np.int64), -1
        for step in itertools.count(self.step):
            numbers = []
            first = (step * self.world + self.rank) * self.batch
            for position in range(first, first + self.batch):
                wanted, index = divmod(position, self.length)
                if wanted != epoch:
                    order, epoch = np.random.default_rng([self.seed, wanted]).permutation(self.length), wanted
                numbers.append(epoch * self.length + int(order[index]))
            yield numbers


def epoch_length(pairs: Pairs, settings: Settings) -> int:
    """Samples of one epoch."""
    length = EPOCH_OF_ROOMS if pairs.rendered else len(pairs)
    return min(length, settings.overfit or length)


class FirstPairs:
    """The first pairs of a data set."""

    def __init__(self, pairs: Pairs, length: int) -> None:
        self.pairs, self.length = pairs, min(length, len(pairs))
        self.title, self.rendered, self.description = pairs.title, pairs.rendered, pairs.description

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Pair:
        return self.pairs[index]
