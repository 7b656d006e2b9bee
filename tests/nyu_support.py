"""Small copies of NYU Depth V2 in its layouts, written from known millimetres."""

from __future__ import annotations

import csv
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from scipy.io import savemat

U8 = npt.NDArray[np.uint8]
U16 = npt.NDArray[np.uint16]
F32 = npt.NDArray[np.float32]

Real = tuple[U8, npt.NDArray[np.float64]]
"""An image and its depth in metres."""

WIDTH, HEIGHT = 24, 16

DECODE = {
    "u16/1000": lambda path: np.asarray(Image.open(path)) / 1000,
    "u16/5000": lambda path: np.asarray(Image.open(path)) / 5000,
    "npy_m": lambda path: np.load(path).astype(np.float64),
}


def real_pairs(samples: Path) -> dict[str, Real]:
    """The registered pairs of this data set among the sample photos, decoded as their manifest says."""
    with (samples / "manifest.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] == "pair" and row["is_nyu_depth_v2"] == "yes"]
    found = {}
    for row in rows:
        if row["depth_decode"] not in DECODE:
            continue
        rgb = samples / row["rgb_file"]
        image = np.load(rgb) * 255 if rgb.suffix == ".npy" else np.asarray(Image.open(rgb).convert("RGB"))
        metres = DECODE[row["depth_decode"]](samples / row["depth_file"])
        assert np.median(metres[metres > 0]) == pytest.approx(float(row["depth_m_median"]), abs=2e-3)
        found[row["id"]] = np.rint(image).astype(np.uint8), metres
    return found


def picture(seed: int, width: int = WIDTH, height: int = HEIGHT) -> U8:
    """Smooth, so that JPEG keeps it to a few levels; no two seeds, sides or channels are alike."""
    u, v = np.arange(width) / width, np.arange(height)[:, None] / height
    rows = np.stack([40 + 150 * u + 20 * v, 30 + 10 * seed + 100 * v + 0 * u, 200 - 120 * u * v], axis=-1)
    return rows.astype(np.uint8)


def millimetres(seed: int, width: int = WIDTH, height: int = HEIGHT) -> U16:
    """Depth of 0.5 to 9.9 m that is different along both sides, with holes of 0 in the first row and elsewhere."""
    rng = np.random.default_rng(seed)
    depth = rng.integers(500, 9900, (height, width)).astype(np.uint16)
    depth[0] = 0
    depth[rng.random(depth.shape) < 0.1] = 0
    return depth


def save(path: Path, pixels: npt.NDArray[np.generic]) -> Path:
    """Write a JPEG of quality 95 or a PNG of the array's bit depth."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=95)
    return path


def bts_pair(root: Path, number: int, width: int = WIDTH, height: int = HEIGHT) -> None:
    """Write rgb_%05d.jpg and sync_depth_%05d.png of `picture(number % 10)` and `millimetres(number)`."""
    save(root / f"rgb_{number:05d}.jpg", picture(number % 10, width, height))
    save(root / f"sync_depth_{number:05d}.png", millimetres(number, width, height))


def bts_line(scene: str, number: int) -> str:
    return f"{scene}/rgb_{number:05d}.jpg {scene}/sync_depth_{number:05d}.png 518.8579"


def densedepth_pair(data: Path, scene: str, number: int, filled: U8) -> str:
    """Write a training pair of 8-bit depth below the folder data/; its line of the CSV."""
    name = f"nyu2_train/{scene}/{number}"
    save(data / f"{name}.jpg", picture(number % 10))
    save(data / f"{name}.png", filled)
    return f"data/{name}.jpg,data/{name}.png"


def h5_pair(path: Path, image: U8, depth: npt.NDArray[np.floating]) -> Path:
    """Write image [H, W, 3] and depth [H, W] as the archive has them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["rgb"] = np.moveaxis(image, 2, 0)
        file["depth"] = depth
    return path


def labelled(folder: Path, images: list[U8], depths: list[F32], train: list[int], test: list[int]) -> Path:
    """Write both .mat files; `train` and `test` count from one."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "nyu_depth_v2_labeled.mat"
    with h5py.File(path, "w") as file:  # MATLAB's H x W x 3 x N, seen from the other end
        file["images"] = np.stack([image.transpose(2, 1, 0) for image in images])
        file["rawDepths"] = np.stack([depth.transpose() for depth in depths])
        file["depths"] = np.stack([np.full_like(depth.transpose(), 7.0) for depth in depths])
    savemat(
        folder / "splits.mat",
        {
            "trainNdxs": np.array(train, dtype=np.uint16)[:, None],
            "testNdxs": np.array(test, dtype=np.uint16)[:, None],
        },
    )
    return path


def one_line(message: object, *parts: object) -> None:
    """A refusal is one line and has these parts in it."""
    text = str(message)
    assert "\n" not in text
    for part in parts:
        assert str(part) in text, text
