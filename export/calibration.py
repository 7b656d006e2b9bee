"""What the ranges of 8-bit graphs are measured on: photos of a folder, or rendered rooms."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spd.bundle.manifest import Calibration
from spd.commands.infer.images import find_images
from spd.data.rooms import RoomPairs
from spd.data.rooms.pairs import ROOMS
from spd.errors import ImageError
from spd.images import read_image
from spd.preprocess import Letterbox

MAX_IMAGES = 16
"""Images that are taken. With 8, 16 and 32 rooms, the depths of the demo network on 100 others change by 0.33%, 0.33%
and 0.35% on average: more images only widen the ranges."""

POINTS = 64
"""Points asked on each image."""


@dataclass(frozen=True)
class CalibrationSet:
    """Images as the encoder gets them, and points on each."""

    images: NDArray[np.uint8]
    """[N, H, W, 3], RGB."""
    points: NDArray[np.float32]
    """[N, K, 2], (u, v) in pixels of the image."""
    source: str
    """What they are, for people."""
    names: tuple[str, ...]
    """What each image is, for people: the name of its file."""
    skipped: tuple[str, ...] = ()
    """Why photos were left out, a message each."""

    @property
    def record(self) -> Calibration:
        """What the manifest says of it."""
        digest = hashlib.sha256()
        for array in (self.images, self.points):
            digest.update(repr(array.shape).encode())
            digest.update(array.tobytes())
        return Calibration(self.source, len(self.images), digest.hexdigest())


def calibration_set(
    folder: Path | None,
    height: int,
    width: int,
    max_points: int,
    tick: Callable[[float], None],
    *,
    most: int | None = None,
    points: int | None = None,
    seed: int = 0,
) -> CalibrationSet:
    """Photos of a folder, spread over its names, or as many rendered rooms without a folder.

    Args:
        folder: its photos are letterboxed as `spd.load` does, those of its sub-folders are not taken.
        height: of the encoder's image, pixels.
        width: of the encoder's image, pixels.
        max_points: most points that the decoder takes.
        tick: is told the share done.
        most: most images; `MAX_IMAGES` by default.
        points: of each image; `POINTS` by default. The first ones are the same, however many there are.
        seed: of the points.

    Raises:
        ImageError: the folder holds no image, or none that can be read.
    """
    most = most or MAX_IMAGES
    sources: Sequence[Path | int] = range(most) if folder is None else _spread(find_images([folder]), most)
    rooms = RoomPairs(height, width, varied=True)  # in the shapes of photos, so that padding is among them
    count = min(points or POINTS, max_points)
    images, asked, names, skipped = [], [], [], []
    for i, source in enumerate(sources):
        try:
            # The last rooms of the training split: no training gets to them, and no test looks at them.
            photo = read_image(source if isinstance(source, Path) else rooms[ROOMS - 1 - source].image)
        except ImageError as error:
            skipped.append(str(error))
        else:
            box = Letterbox.fit(*photo.size, width, height)
            images.append(box.apply(photo))
            names.append(source.name if isinstance(source, Path) else f"rendered room {source}")
            spread = np.random.default_rng(seed + i).uniform((0, 0), photo.size, size=(count, 2))
            asked.append(box.to_graph(spread))
        tick((i + 1) / len(sources))
    if not images:
        raise ImageError(f"--images {folder}: none of {len(skipped)} images can be read, such as: {skipped[0]}")
    name = "rendered rooms" if folder is None else f"photos of {folder.resolve().name}"
    return CalibrationSet(np.stack(images), np.stack(asked), name, tuple(names), tuple(skipped))


def _spread(paths: Sequence[Path], most: int) -> list[Path]:
    """At most so many of them, at equal distances."""
    chosen = np.linspace(0, len(paths) - 1, min(most, len(paths))).round().astype(int)
    return [paths[i] for i in chosen]
