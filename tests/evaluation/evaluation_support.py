"""Data and predictors whose metrics can be worked out by hand."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spd.data.pairs import Pair
from spd.errors import DataError

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


def pair(depth: F32, name: str = "some.png", mark: int = 0) -> Pair:
    """An image of the depth's size whose first pixel is `mark`, for a predictor to know it by."""
    image = np.full((*depth.shape, 3), 128, np.uint8)
    image[0, 0] = mark
    return Pair(image, depth, name)


@dataclass
class SomePairs:
    """Pairs that are at hand; an error stands for a pair that cannot be read."""

    items: Sequence[Pair | DataError]
    title: str = "some data, test"
    rendered: bool = False
    description: str = ""
    read: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Pair:
        self.read.append(index)
        item = self.items[index]
        if isinstance(item, DataError):
            raise item
        return item


def constant(*depths: float, size: tuple[int, int] = (30, 40)) -> SomePairs:
    """A pair for each depth in metres, which all its pixels have."""
    return SomePairs([pair(np.full(size, d, np.float32), f"{i}.png", mark=i) for i, d in enumerate(depths)])


@dataclass
class Lookup:
    """Predicts `change` of the true depth of the pixel under each point, and remembers what it was asked."""

    pairs: SomePairs
    change: Callable[[F64], F64] = lambda depth: depth
    asked: list[tuple[int, F64]] = field(default_factory=list)
    encoded: list[int] = field(default_factory=list)

    def encode(self, image: NDArray[np.uint8], /) -> "LookupScene":
        number = int(image[0, 0, 0])
        self.encoded.append(number)
        return LookupScene(self, number)


@dataclass
class LookupScene:
    lookup: Lookup
    number: int

    def depth(self, points: F64, /) -> F32:
        self.lookup.asked.append((self.number, points))
        item = self.lookup.pairs.items[self.number]
        assert isinstance(item, Pair)
        columns, rows = np.floor(points).astype(int).T
        return self.lookup.change(item.depth[rows, columns].astype(np.float64)).astype(np.float32)


class StubModel(Lookup):
    """A bundle's runtime that is 25 % too far."""

    backend = "stub"
    precision = "fp16"
    size = (160, 192)
    manifest: Any = SimpleNamespace(name="the-bundle", weights_sha256="ab12", trained=True)
    opened: list[Any]

    def __enter__(self) -> "StubModel":
        return self

    def __exit__(self, *_: object) -> None:
        self.opened.append("closed")
