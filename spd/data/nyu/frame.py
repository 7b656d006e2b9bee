"""What every layout of NYU Depth V2 hands over, and the rules that all of them go through to become a `Pair`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from spd.data.pairs import Pair
from spd.errors import DataError

Split: TypeAlias = Literal["train", "test"]
Item = TypeVar("Item")

NATIVE_SIZE = (640, 480)
"""Width and height of the camera's images, pixels."""

TRAIN_BOX = (43, 45, 608, 472)
"""Left, top, right and bottom (the latter two exclusive) of what training sees of a native image, 565 x 427 pixels.

Training lists of this data set are used with this crop. Outside of it lie the border that undistorting left (white or
black, 5 to 8 pixels) and a frame without measured depth, which some copies fill with made-up values.
"""

CLIPPED = 10.0
"""Metres. The data set's toolbox sets whatever is farther to exactly this, so this value measures nothing."""

PLAUSIBLE = (0.1, 20.0)
"""Metres that the median depth of a room lies between; outside of it the unit was misread."""


@dataclass(frozen=True, eq=False)
class Frame:
    """A picture and its depth as they are stored, decoded but neither checked nor cropped."""

    image: npt.NDArray[np.uint8]
    """uint8 [H, W, 3], RGB."""
    depth: npt.NDArray[np.float32]
    """float32 [H, W], metres; whatever was stored, also NaN."""
    name: str
    """The picture's file below the data set's folder, for people."""
    depth_file: str
    """The file of the depth, for messages."""
    encoding: str
    """How its numbers were read, for messages: `16-bit PNG in millimetres`."""


@dataclass(frozen=True)
class Found(Generic[Item]):
    """One split of a data set on disk: what can be read and how. Can be pickled; holds no open file."""

    layout: str
    """Name of the layout, for people: `BTS layout`."""
    folder: Path
    items: Sequence[Item]
    """One for each pair, in order; at least one."""
    read: Callable[[Item], Frame]
    """Raises DataError, naming the file, where it cannot be read."""
    left_out: int = 0
    """Pairs that ought to be there and are not."""
    notes: tuple[str, ...] = ()
    """What a user should know about it, a line each: what was left out, which depth it is."""


def to_pair(frame: Frame, split: Split) -> Pair:
    """Crop and check a frame.

    Pairs of `NATIVE_SIZE` are cropped to `TRAIN_BOX` for training, all others are kept whole. Depth that is not
    finite, not positive or exactly `CLIPPED` becomes 0; depth beyond that is kept.

    Raises:
        DataError: image and depth differ in size, no valid depth is left, or the median of the valid depth lies
            outside `PLAUSIBLE`.
    """
    image, depth = frame.image, frame.depth
    height, width = image.shape[:2]
    if depth.shape != (height, width):
        raise DataError(
            f"{frame.depth_file} has {depth.shape[1]} x {depth.shape[0]} depths, but the image {frame.name} has "
            f"{width} x {height} pixels; expected the same size"
        )
    where, cut_from = "", None
    if split == "train" and (width, height) == NATIVE_SIZE:
        left, top, right, bottom = TRAIN_BOX
        image, depth = image[top:bottom, left:right].copy(), depth[top:bottom, left:right]
        where = f" in columns {left} to {right - 1} of rows {top} to {bottom - 1}, which training sees"
        cut_from = (height, width)
    depth = np.where((depth > 0) & (depth < np.inf) & (depth != CLIPPED), depth, np.float32(0))
    # Every 8th value decides on the unit as well as all of them, and takes 0.3 ms instead of 3.
    valid = depth[depth > 0]
    if not valid.size:
        raise DataError(
            f"{frame.depth_file} has no valid depth{where}: every value is 0, negative, not finite, or clipped at "
            f"{CLIPPED:g} m; leave this pair out or copy it again"
        )
    median = float(np.median(valid[::8]))
    low, high = PLAUSIBLE
    if not low <= median <= high:
        raise DataError(
            f"{frame.depth_file} has a median depth of {median:.4g} m when read as {frame.encoding}, expected "
            f"{low:g} to {high:g} m; it seems to be in another unit"
        )
    return Pair(image, depth, frame.name, cut_from)


def metres(values: npt.NDArray[Any], scale: float = 1.0) -> npt.NDArray[np.float32]:
    """Stored numbers as float32 metres; those beyond float32 become infinite."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32) * np.float32(scale)
