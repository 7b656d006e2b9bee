"""Pairs of an image file and a PNG of its depth."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from spd.data.nyu.frame import CLIPPED, Frame
from spd.errors import DataError, ImageError, one_line
from spd.images import GREY16_MODES, check_image, read_image

Names: TypeAlias = tuple[str, str]
"""An image's file and its depth's, below a common folder, with forward slashes."""


@dataclass(frozen=True)
class FileReader:
    """Reads pairs of files below a folder."""

    root: Path
    eight_bit: bool = False
    """Whether 8-bit PNGs are depth, too: 255 is 10 m."""

    def __call__(self, names: Names) -> Frame:
        """Read one pair.

        Raises:
            DataError: a file is missing, empty, damaged, or is not what it should be.
        """
        image, depth = (self.root / name for name in names)
        try:
            pixels = np.array(read_image(image))
        except ImageError as error:
            raise DataError(str(error)) from error
        values, encoding = read_depth_png(depth, self.eight_bit)
        return Frame(pixels, values, names[0], str(depth), encoding)


def read_depth_png(path: Path, eight_bit: bool) -> tuple[npt.NDArray[np.float32], str]:
    """Read depth from a grey PNG, whose bit depth alone decides on the unit.

    Args:
        path: 16 bits hold millimetres; 8 bits hold v / 255 * 10 metres.
        eight_bit: whether 8 bits are accepted.

    Returns:
        float32 [H, W] metres, and the encoding in words.

    Raises:
        DataError: the file is missing, empty, damaged, or is not such a PNG.
    """
    try:
        check_image(path)
        with Image.open(path) as image:
            kind = image.format, image.mode
            values = np.asarray(image)
    except ImageError as error:
        raise DataError(str(error)) from error
    except Exception as error:  # Pillow's decoders raise nearly anything on a damaged file
        raise DataError(f"{path} is damaged or cut off ({one_line(error)}); copy it again") from error
    if kind[0] == "PNG" and kind[1] in GREY16_MODES:
        return values.astype(np.float32) / np.float32(1000), "16-bit PNG in millimetres"
    if kind == ("PNG", "L") and eight_bit:
        return values.astype(np.float32) / np.float32(255) * np.float32(CLIPPED), "8-bit PNG with 255 for 10 m"
    expected = "16-bit grey PNG in millimetres" + (" or an 8-bit one with 255 for 10 m" if eight_bit else "")
    found = "8-bit grey" if kind[1] == "L" else f"mode {kind[1]}"
    raise DataError(f"{path} is a {kind[0]} file of {found}, expected depth as a {expected}; extract it again")


def present(root: Path, listed: Sequence[Names], source: str) -> tuple[list[Names], tuple[str, ...]]:
    """Sort out pairs of which a file is not there.

    Each folder is listed once, which takes 0.1 s for the 48,462 files of the usual training list; asking for every
    file by itself takes 0.4 s, and more on a network drive.

    Args:
        root: the folder that the names are relative to.
        listed: names of pairs.
        source: where they were found, for messages.

    Returns:
        The pairs that are there, in order, and a note about the others if there are any.

    Raises:
        DataError: none are there.
    """
    folders: dict[str, frozenset[str]] = {}

    def is_there(name: str) -> bool:
        folder, _, file = name.rpartition("/")
        if folder not in folders:
            folders[folder] = frozenset(file_names(root / folder))
        return file in folders[folder]

    kept, missing, first = [], 0, ""
    for names in listed:
        absent = next((name for name in names if not is_there(name)), None)
        if absent is None:
            kept.append(names)
        else:
            missing, first = missing + 1, first or str(root / absent)
    if not kept:
        what = f"none of the {len(listed):,} pairs of {source}, the first is {first}" if listed else "no images"
        raise DataError(f"{root} has {what}; check that the data set is unpacked there")
    if not missing:
        return kept, ()
    return kept, (f"left out {missing:,} of the {len(listed):,} pairs of {source} with a missing file, first {first}",)


def file_names(folder: Path) -> list[str]:
    """Sorted names of what is in a folder, none if it does not exist.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror or error}; check its permissions") from error


def is_data(name: str, suffix: str) -> bool:
    """Whether a file is of the data set: macOS puts a ._NAME beside each NAME on disks of other systems."""
    return name.endswith(suffix) and not name.startswith(".")


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, stripped, empty ones too.

    Raises:
        DataError: it cannot be read or is not text.
    """
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").split("\n")]
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text, expected a list of files; copy it again") from error
