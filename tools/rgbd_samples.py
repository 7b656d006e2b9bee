"""A folder of RGB-D pairs from many sources, each with its own depth encoding, described by a `manifest.csv`.

Columns used: `id`, `kind` ("pair" for those with depth), `dataset`, `rgb_file`, `depth_file`, `depth_decode` and
`aligned` ("no" for depth that is not registered to the picture; such pairs are left out).
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from spd.data.pairs import Pair
from spd.errors import DataError, ImageError
from spd.images import read_image

MANIFEST = "manifest.csv"

UNITS = {"u16/1000": 1000, "u16/5000": 5000, "u16/10000": 10000}
"""Steps per metre of 16-bit pictures."""


class RgbdSamples:
    """The pairs of one data set in such a folder, or of all of them. See `spd.data.pairs.Pairs`."""

    rendered = False

    def __init__(self, folder: Path, dataset: str | None = None) -> None:
        """Read the manifest.

        Raises:
            DataError: there is no manifest, or it has no registered pairs (of `dataset`).
        """
        path = folder / MANIFEST
        if not path.is_file():
            raise DataError(f"{path} does not exist; give a folder of RGB-D pairs with a {MANIFEST}")
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["kind"] == "pair" and row["aligned"] != "no"]
        self.folder = folder
        self.rows = [row for row in rows if dataset in (None, row["dataset"])]
        self.title = dataset or f"all pairs of {folder.name}"
        self.description = f"{self.title}: {len(self.rows)} pairs in {folder}"
        if not self.rows:
            raise DataError(f"{path} lists no registered pairs" + (f" of {dataset!r}" if dataset else ""))

    @property
    def datasets(self) -> list[str]:
        """The data sets that the pairs come from, in the manifest's order."""
        return list(dict.fromkeys(row["dataset"] for row in self.rows))

    def __len__(self) -> int:
        """How many pairs there are."""
        return len(self.rows)

    def __getitem__(self, index: int) -> Pair:
        """Read one pair.

        Raises:
            DataError: a file cannot be read, or its encoding is not known.
        """
        row = self.rows[index]
        rgb, depth = self.folder / row["rgb_file"], self.folder / row["depth_file"]
        try:
            return Pair(_read_photo(rgb), _read_depth(depth, row["depth_decode"]), str(rgb))
        except (ImageError, OSError, ValueError) as error:
            raise DataError(f"{row['id']} cannot be read: {error}") from error


def _read_photo(path: Path) -> npt.NDArray[np.uint8]:
    """uint8 [H, W, 3]; an .npy holds 0..1."""
    if path.suffix == ".npy":
        return np.asarray(np.round(np.load(path) * 255), np.uint8)
    return np.asarray(read_image(path))


def _read_depth(path: Path, decode: str) -> npt.NDArray[np.float32]:
    """float32 [H, W] metres, 0 where unknown."""
    if decode == "npy_m":
        return np.asarray(np.load(path), np.float32)
    with Image.open(path) as image:
        raw = np.asarray(image).astype(np.uint16)
    if decode == "sunrgbd":  # millimetres, rotated left by three bits
        return np.asarray(((raw >> 3) | (raw << 13)) / 1000, np.float32)
    if decode not in UNITS:
        raise ValueError(f"its depth encoding {decode!r} is not known, only npy_m, sunrgbd, {', '.join(UNITS)}")
    return np.asarray(raw / UNITS[decode], np.float32)
