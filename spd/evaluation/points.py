"""Which pixels of an image are asked for their depth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spd.data.pairs import Pair
from spd.data.query_sampler import sample_queries
from spd.errors import DataError
from spd.utils.metrics import MAX_DEPTH, MIN_DEPTH

EIGEN_SIZE = (480, 640)
"""Height and width of the images that the crop is for."""
EIGEN_CROP = (slice(45, 471), slice(41, 601))
"""Rows and columns of the Eigen crop (paper 7.1), 426 x 560 pixels."""


def measured(depth: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Pixels with a true depth [H, W] strictly between `MIN_DEPTH` and `MAX_DEPTH`; NaN is none."""
    return (depth > MIN_DEPTH) & (depth < MAX_DEPTH)


def has_crop(depth: npt.NDArray[np.float32]) -> bool:
    """Whether an image is of the size that the Eigen crop is for."""
    return depth.shape == EIGEN_SIZE


def counted(depth: npt.NDArray[np.float32], eigen_crop: bool) -> npt.NDArray[np.bool_]:
    """Pixels that count [H, W]: `measured` ones, and with `eigen_crop` only those in the crop, if the size fits it."""
    counts = measured(depth)
    if eigen_crop and has_crop(depth):
        inside = np.zeros_like(counts)
        inside[EIGEN_CROP] = True
        counts &= inside
    return counts


@dataclass(frozen=True, eq=False)
class Pixels:
    """Some pixels of a pair with their true depth."""

    points: npt.NDArray[np.float64]
    """[K, 2], (u, v): the pixels' centres."""
    truth: npt.NDArray[np.float64]
    """[K], metres."""


class Candidates:
    """The valid pixels of one pair, and the samples of them."""

    def __init__(self, pair: Pair, index: int, seed: int, eigen_crop: bool = False) -> None:
        """Find the valid pixels of pair number `index`; `eigen_crop` keeps those in the crop, if the size fits it.

        Raises:
            DataError: there are none, or image and depth differ in size.
        """
        if pair.image.shape[:2] != pair.depth.shape:
            sizes = " and ".join(f"{shape[1]} x {shape[0]}" for shape in (pair.image.shape, pair.depth.shape))
            raise DataError(
                f"{pair.name}: image and depth have {sizes} pixels; expected the same, depth for each pixel"
            )
        self.valid = counted(pair.depth, eigen_crop)
        """Bool [H, W]: what counts."""
        self.cropped = eigen_crop and has_crop(pair.depth)
        self._depth = np.where(self.valid, pair.depth, np.float32(0))
        self._key = (seed, index)
        if not self.valid.any():
            where = " inside the Eigen crop" if self.cropped else ""
            raise DataError(
                f"{pair.name} has no depth between {MIN_DEPTH:g} and {MAX_DEPTH:g} m{where}, so nothing to compare with"
            )

    def __len__(self) -> int:
        """How many there are."""
        return int(np.count_nonzero(self.valid))

    def sample(self, k: int) -> Pixels:
        """K of them, drawn uniformly: each at most once, unless there are fewer than K.

        The draw depends on the seed, the pair's index and K only: neither on the pairs before nor on other samples.
        """
        points, truth = sample_queries(self._depth, k, np.random.default_rng((*self._key, k)))
        return Pixels(points.astype(np.float64), truth.astype(np.float64))

    def all(self, most: int | None = None) -> Pixels:
        """All of them row by row, or a sample of `most` where there are more."""
        if most is not None and most < len(self):
            return self.sample(most)
        rows, columns = np.nonzero(self.valid)
        points = np.stack((columns, rows), axis=1).astype(np.float64) + 0.5
        return Pixels(points, self._depth[rows, columns].astype(np.float64))
