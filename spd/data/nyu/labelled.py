"""The labelled images as NYU publishes them: nyu_depth_v2_labeled.mat, with splits.mat beside it.

The first is HDF5 (MATLAB 7.3), in which MATLAB's axes appear reversed: images uint8 [1449, 3, W, H], rawDepths float32
[1449, W, H] metres. The second is in MATLAB's older format and numbers images from one, 795 in trainNdxs and 654 in
testNdxs.

Depth is taken from `rawDepths`, which is 0 where nothing was measured, for testing, as BTS does, and for training too.
`depths` beside it is filled in by colour.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spd.data.nyu.frame import Found, Frame, Split, metres
from spd.data.nyu.hdf5 import ENCODING, dataset, describe, open_hdf5
from spd.errors import DataError, one_line

LAYOUT = "labelled .mat"
MAT, SPLITS = "nyu_depth_v2_labeled.mat", "splits.mat"


def find(folder: Path, split: Split) -> Found[int] | None:
    """A split of the labelled images, None if the folder has no `MAT`.

    Raises:
        DataError: as `open_labelled`.
    """
    path = folder / MAT
    return open_labelled(path, split) if path.is_file() else None


def open_labelled(path: Path, split: Split) -> Found[int]:
    """A split of the labelled images in a file of any name, with `SPLITS` beside it.

    Raises:
        DataError: one of the two files is missing, damaged, or not what it should be.
    """
    with open_hdf5(path) as file:
        images, depths = dataset(file, "images", 4, "u"), dataset(file, "rawDepths", 3, "f")
        count = images.shape[0]
        if images.dtype != np.uint8 or images.shape[1] != 3 or depths.shape[0] != count:
            raise DataError(
                f"{path}: images is {describe(images)} and rawDepths {describe(depths)}, "
                "expected uint8 [N, 3, W, H] and float32 [N, W, H]"
            )
    numbers = _numbers(path.with_name(SPLITS), f"{split}Ndxs", count)
    return Found(LAYOUT, path, numbers, LabelledReader(path), notes=("measured depth (rawDepths)",))


@dataclass(frozen=True)
class LabelledReader:
    """Reads images by their number, counted from one; the file is opened anew for each, which takes 0.2 ms."""

    path: Path

    def __call__(self, number: int) -> Frame:
        """Read one pair.

        Raises:
            DataError: the file is missing or damaged.
        """
        with open_hdf5(self.path) as file:
            image = np.ascontiguousarray(dataset(file, "images", 4, "u")[number - 1].T)
            depth = np.ascontiguousarray(dataset(file, "rawDepths", 3, "f")[number - 1].T)
        name = f"{self.path.name} image {number}"
        return Frame(image, metres(depth), name, f"{self.path} image {number}", ENCODING)


def _numbers(path: Path, key: str, count: int) -> list[int]:
    """Numbers of a split's images, 1 to `count`."""
    from scipy.io import loadmat  # takes 0.3 s

    if not path.is_file():
        raise DataError(f"{path} does not exist; put {SPLITS}, which lists the images of each split, beside the .mat")
    try:
        content = loadmat(path)
    except Exception as error:  # its parser raises nearly anything on a damaged file
        raise DataError(f"{path} cannot be read as a MATLAB 5 file ({one_line(error)}); download it again") from error
    if key not in content:
        held = ", ".join(name for name in content if not name.startswith("__")) or "nothing"
        raise DataError(f"{path} has no {key}, only {held}; it is not the {SPLITS} of this data set")
    numbers = np.asarray(content[key]).ravel()
    whole = numbers.size > 0 and numbers.dtype.kind in "iuf" and bool((numbers == np.floor(numbers)).all())
    if not whole or numbers.min() < 1 or numbers.max() > count:
        raise DataError(f"{path}: {key} must hold image numbers from 1 to {count}, the number of images beside it")
    return [int(number) for number in numbers]
