"""What calibration runs: photos as the runtime would see them, points on each, and the parity gate's own images."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from export.calibration import POINTS, CalibrationSet
from spd.bundle.gate import IMAGES, check_images, check_points


@dataclass(frozen=True)
class Sample:
    """One image and the points asked on it."""

    name: str
    """File name, or what the image is."""
    image: Tensor
    """uint8 [1, H, W, 3], letterboxed."""
    points: Tensor
    """float32 [1, K, 2], (u, v) in pixels of that image."""


def photo_samples(photos: CalibrationSet) -> list[Sample]:
    """Photos or rendered rooms, and the points asked on them."""
    return [
        Sample(name, torch.from_numpy(image[None]), _contiguous_tensor(points[None]))
        for name, image, points in zip(photos.names, photos.images, photos.points, strict=True)
    ]


def as_export_takes_them(photos: CalibrationSet) -> CalibrationSet:
    """The same photos with as many points as `spd-export` measures the ranges of 8-bit products with."""
    return replace(photos, points=photos.points[:, :POINTS])


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
