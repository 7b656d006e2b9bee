"""What a data set is made of: pictures with their depth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class Pair:
    """A picture and its depth, pixel by pixel."""

    image: npt.NDArray[np.uint8]
    """uint8 [H, W, 3], RGB."""
    depth: npt.NDArray[np.float32]
    """float32 [H, W], metres along the optical axis; 0 where nothing was measured."""
    name: str
    """Where it comes from, for people: the picture's file, or the seed of a room."""
    cut_from: tuple[int, int] | None = None
    """Height and width in pixels of the picture that this is a part of, None if it is whole.

    A part has to be shown as large as it is in the whole: enlarged to fill the network's image it would look nearer.
    """


class Pairs(Protocol):
    """A data set. Reading a pair depends on its index only: several workers can read one."""

    title: str
    """Data set, layout and split in a few words, for logs and tables."""
    rendered: bool
    """Whether pairs are rendered rather than read; then training never needs a pair twice."""

    @property
    def description(self) -> str:
        """Where it was found, what it holds and what was left out, in a line for people; empty if there is no more."""

    def __len__(self) -> int:
        """How many pairs there are."""

    def __getitem__(self, index: int) -> Pair:
        """Read one pair.

        Raises:
            DataError: a file is missing or broken; names it.
        """
