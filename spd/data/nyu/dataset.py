"""NYU Depth V2, in whichever of its layouts a user has it.

Which depth, which units and which pairs belong to a split differ between them; the module of each layout says so:
`bts`, `densedepth`, `hdf5`, `mmseg`, `labelled`. The rules that hold for all are in `frame`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

from spd.data.nyu import bts, densedepth, hdf5, labelled, mmseg
from spd.data.nyu.files import file_names
from spd.data.nyu.frame import TRAIN_BOX, Found, Split, to_pair
from spd.data.pairs import Pair
from spd.errors import DataError

__all__ = ["TRAIN_BOX", "NyuPairs", "Split", "open_nyu"]

Find: TypeAlias = Callable[[Path, Split], "Found[Any] | None"]

LAYOUTS: tuple[tuple[Find, dict[Split, str]], ...] = (
    (bts.find, {"train": "sync/ or official_splits/train/ (BTS)", "test": "official_splits/test/ (BTS)"}),
    (densedepth.find, {"train": "data/nyu2_train.csv (DenseDepth)", "test": "data/nyu2_test.csv (DenseDepth)"}),
    (hdf5.find, {"train": "train/*/*.h5 (HDF5)", "test": "val/official/*.h5 (HDF5)"}),
    (
        mmseg.find,
        {
            "train": "images/train/ and annotations/train/ (mmsegmentation)",
            "test": "images/test/ and annotations/test/ (mmsegmentation)",
        },
    ),
    (labelled.find, dict.fromkeys(("train", "test"), f"{labelled.MAT} with {labelled.SPLITS}")),
)
"""How to find each layout and what it is known by. In a folder that fits several, the first is taken."""

PARTS = (
    *("sync", "official_splits", "train", "test", "val", "official"),
    *("nyu2_train", "nyu2_test", "images", "annotations"),
)
"""Folders inside of layouts; where a user points at one, the data set is looked for above it, too."""

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
SHOWN = 8


class NyuPairs:
    """A split of NYU Depth V2; see `open_nyu`. Can be pickled, and used in forked and spawned workers."""

    rendered = False

    def __init__(self, found: Found[Any], split: Split) -> None:
        self._found = found
        self._split = split
        self.title = f"NYU Depth V2, {found.layout}, {split}"

    def __len__(self) -> int:
        return len(self._found.items)

    def __getitem__(self, index: int) -> Pair:
        """Read one pair, see `open_nyu`.

        Raises:
            DataError: its files cannot be used; names the file.
            IndexError: there are fewer pairs.
        """
        return to_pair(self._found.read(self._found.items[index]), self._split)

    @property
    def left_out(self) -> int:
        """How many pairs ought to be there and were left out because a file is missing."""
        return self._found.left_out

    @property
    def description(self) -> str:
        """What was found, on one line: layout, split, number of pairs, where, which depth, and what was left out."""
        found = f"{self.title}: {len(self):,} pairs in {self._found.folder}"
        return "; ".join((found, *self._found.notes))


def open_nyu(path: str | Path, split: Split) -> NyuPairs:
    """Open NYU Depth V2 for training or testing; its layout is recognised.

    Training pairs of 640 x 480 pixels are cropped to `TRAIN_BOX`, 565 x 427 pixels, in every layout, so that the
    border of the images never enters training. Test pairs are whole; the crop of the test protocol is evaluation's.
    Depth is float32 metres. It is 0 where it was stored as 0, negative or not finite, and where it is exactly 10 m,
    which is what the data set's makers clipped it to. Larger depth is left as it is.

    Pairs that a list names and that are not there are left out and counted. Other bad pairs raise when they are read:
    damaged files, depth of another size than its image, no valid depth, a median depth outside 0.1 to 20 m.

    Args:
        path: the data set's folder, the folder that holds it, or one of its own (such as `sync` or `official_splits`);
            or `nyu_depth_v2_labeled.mat`, to take it where other layouts are beside it.
        split: `train` or `test`.

    Raises:
        DataError: there is no such folder, it has none of the known layouts or several, its lists are broken, or
            nothing they name is there.
    """
    folder = Path(os.path.abspath(os.path.expanduser(path)))
    if split not in ("train", "test"):
        raise DataError(f"NYU Depth V2 has no split {split!r}, only train and test")
    try:
        if folder.is_file():
            return NyuPairs(_open_file(folder, split), split)
        if not folder.is_dir():
            raise DataError(f"{folder} does not exist; check the path of the data set")
        for place in dict.fromkeys((*_upwards(folder), *_upwards(folder.resolve()))):
            if found := _find(place, split):
                return NyuPairs(found, split)
        inside = _inside(folder, split)
        if len(inside) > 1:
            several = ", ".join(f"{found.folder} ({found.layout})" for found in inside[:SHOWN])
            raise DataError(f"{folder} holds {len(inside)} copies of the data set: {several}; point at one of them")
        if inside:
            return NyuPairs(inside[0], split)
        raise _unknown(folder, split)
    except OSError as error:
        raise DataError(f"{error.filename or folder} cannot be read: {error.strerror or error}") from error


def _find(folder: Path, split: Split) -> Found[Any] | None:
    """The first layout that fits a folder."""
    return next((found for find, _ in LAYOUTS if (found := find(folder, split))), None)


def _inside(folder: Path, split: Split) -> list[Found[Any]]:
    """What the folders in a folder hold, each once, whatever links lead there.

    Raises:
        DataError, OSError: one of them cannot be read, and there is nothing in the others.
    """
    found, failed = [], None
    for place in dict.fromkeys((folder / name).resolve() for name in file_names(folder)):
        try:
            if one := _find(place, split):
                found.append(one)
        except (DataError, OSError) as error:  # lost+found, or an empty sync/ beside the real one
            failed = failed or error
    if failed and not found:
        raise failed
    return found


def _open_file(path: Path, split: Split) -> Found[Any]:
    if path.name == labelled.SPLITS:
        path = path.with_name(labelled.MAT)
    if path.suffix == ".mat":
        return labelled.open_labelled(path, split)
    if path.name.endswith(ARCHIVES):
        raise DataError(f"{path} is an archive; unpack it and point at the folder")
    raise DataError(f"{path} is a file; expected the folder of NYU Depth V2, or {labelled.MAT}")


def _upwards(folder: Path) -> Iterator[Path]:
    """A folder and, while it is named like a part of a layout, those above it."""
    yield folder
    while folder.name in PARTS:
        folder = folder.parent
        yield folder


def _unknown(folder: Path, split: Split) -> DataError:
    """Why a folder has no pairs: it is the raw data set, or not one at all."""
    names = [name for name in file_names(folder) if not name.startswith(".")]
    if raw := next((place for place in (folder, *(folder / name for name in names)) if _is_raw(place)), None):
        return DataError(
            f"{raw} holds the raw recordings (.ppm and .pgm), whose depth is not registered to the images and cannot "
            f"be used; get the registered frames (sync/ of BTS, or DenseDepth's nyu_data.zip) or {labelled.MAT}"
        )
    looked_for = ", ".join(signs[split] for _, signs in LAYOUTS)
    found = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
    unpack = next((f"; unpack {name} first" for name in names if name.endswith(ARCHIVES)), "")
    return DataError(
        f"{folder} has no {split} pairs of NYU Depth V2 in a known layout: looked for {looked_for}; "
        f"found {found or 'nothing'}{unpack}"
    )


def _is_raw(folder: Path) -> bool:
    """Whether frames as the camera wrote them lie in a folder: r-*.ppm, d-*.pgm."""
    return any(name.startswith(("r-", "d-")) and name.endswith((".ppm", ".pgm")) for name in file_names(folder))
