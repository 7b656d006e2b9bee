"""The HDF5 archive of sparse-to-dense and FastDepth, nyudepthv2.tar.gz, unpacked.

    train/<scene>/02366.h5
    val/official/01449.h5           the number is that of the labelled image, counted from one

Each file has `rgb`, uint8 [3, H, W], and `depth`, float [H, W] in metres, filled everywhere. The frames 00001 and 00201
of each scene, which FastDepth keeps back from training to watch itself, are training frames here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spd.data.nyu.densedepth import FILLED
from spd.data.nyu.files import file_names, is_data
from spd.data.nyu.frame import Found, Frame, Split, metres
from spd.errors import DataError, one_line

if TYPE_CHECKING:
    import h5py

LAYOUT = "HDF5 layout"
ENCODING = "floating point metres"


def find(folder: Path, split: Split) -> Found[str] | None:
    """A split in this layout, None if the folder has no such files.

    Raises:
        DataError: a folder cannot be read.
    """
    top = "train" if split == "train" else "val"
    scenes = file_names(folder / top) if split == "train" else ["official"]
    names = ((scene, name) for scene in scenes for name in file_names(folder / top / scene))
    paths = [f"{top}/{scene}/{name}" for scene, name in names if is_data(name, ".h5")]
    return Found(LAYOUT, folder, paths, Hdf5Reader(folder), notes=(FILLED,)) if paths else None


@dataclass(frozen=True)
class Hdf5Reader:
    """Reads one file per pair; each is opened for that only, so that worker processes share nothing."""

    folder: Path

    def __call__(self, name: str) -> Frame:
        """Read one pair, given its file below the folder.

        Raises:
            DataError: the file is missing or damaged, or its datasets are not what they should be.
        """
        path = self.folder / name
        with open_hdf5(path) as file:
            rgb, depth = dataset(file, "rgb", 3, "u"), dataset(file, "depth", 2, "f")
            if rgb.shape[0] != 3 or rgb.dtype != np.uint8:
                raise DataError(f"{path}: rgb is {describe(rgb)}, expected uint8 [3, H, W]")
            image = np.ascontiguousarray(rgb[()].transpose(1, 2, 0))
            return Frame(image, metres(depth[()]), name, str(path), ENCODING)


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file, open for reading; failures inside, too, become DataErrors that name it."""
    import h5py  # needed by two layouts only

    try:
        if path.stat().st_size == 0:
            raise DataError(f"{path} is empty (0 bytes), expected an HDF5 file; copy it again")
        with h5py.File(path, "r") as file:
            yield file
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; check the data set's folder") from error
    except DataError:
        raise
    except Exception as error:  # h5py raises nearly anything on what is damaged
        raise DataError(f"{path} cannot be read as HDF5 ({one_line(error)}); copy or download it again") from error


def dataset(file: h5py.File, name: str, dimensions: int, kind: str) -> Any:
    """A dataset of an open file: `kind` is numpy's letter, f for floating point and u for unsigned.

    Raises:
        DataError: there is none of that name, or it has another number of dimensions or kind.
    """
    import h5py

    found = file.get(name)
    if not isinstance(found, h5py.Dataset):
        held = ", ".join(sorted(map(str, file))[:8]) or "nothing"
        raise DataError(f"{file.filename} has no dataset {name!r}, only {held}; it is not from this data set")
    if found.ndim != dimensions or found.dtype.kind != kind:
        expected = f"{'floating point' if kind == 'f' else 'unsigned'} with {dimensions} dimensions"
        raise DataError(f"{file.filename}: {name} is {describe(found)}, expected {expected}")
    return found


def describe(found: Any) -> str:
    """Dtype and shape of a dataset, for messages."""
    return f"{found.dtype} {list(found.shape)}"
