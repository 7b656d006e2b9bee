"""What calibration runs: photos as the runtime would see them, points on each, and the parity gate's own images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spd.bundle.gate import IMAGES, check_images, check_points
from spd.commands.infer.images import find_images
from spd.images import read_image
from spd.preprocess import Letterbox


@dataclass(frozen=True)
class Sample:
    """One image and the points asked on it."""

    name: str
    """File name, or what the image is."""
    image: Tensor
    """uint8 [1, H, W, 3], letterboxed."""
    points: Tensor
    """float32 [1, K, 2], (u, v) in pixels of that image."""


def photo_samples(folder: Path, size: tuple[int, int], points: int, most: int, seed: int) -> list[Sample]:
    """Photos of a folder, preprocessed as `spd.load` does, with random points inside each photo.

    Args:
        folder: its images are taken in the order of their names, not those of its sub-folders.
        size: height and width of the encoder's image, pixels.
        points: points per photo.
        most: how many photos are taken; of more, so many at equal distances.
        seed: of the points.

    Raises:
        ImageError: the folder holds no image, or one cannot be read.
    """
    paths = find_images([folder])
    rng = np.random.default_rng(seed)
    samples = []
    for i in np.linspace(0, len(paths) - 1, min(most, len(paths))).round().astype(int):
        photo = read_image(paths[i])
        letterbox = Letterbox.fit(photo.width, photo.height, size[1], size[0])
        inside = letterbox.to_graph(rng.uniform((0, 0), photo.size, size=(points, 2)))
        samples.append(
            Sample(paths[i].name, torch.from_numpy(letterbox.apply(photo)[None]), _contiguous_tensor(inside[None]))
        )
    return samples


def gate_samples(size: tuple[int, int], points: int) -> list[Sample]:
    """The images and points that `spd-export` will judge the graphs by (`spd.bundle.gate`)."""
    height, width = size
    return [
        Sample(
            f"{name} of the parity gate",
            torch.from_numpy(image[None]),
            _contiguous_tensor(check_points(height, width, points, seed)[None]),
        )
        for seed, (name, image) in enumerate(zip(IMAGES, check_images(height, width), strict=True))
    ]


def _contiguous_tensor(array: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))
