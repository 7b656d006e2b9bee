"""From an image to the graph's uint8 input, and points along with it.

Imports nothing but numpy and Pillow, so that a runtime needs no training packages. Points follow `spd.bundle.contract`:
`(u, v)` in pixels, (0, 0) is the outer corner of the first pixel, so resizing by s and padding by p maps u to u * s + p
with no half-pixel term.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image

PAD_COLOUR = (124, 116, 104)
"""ImageNet's mean colour, RGB: padding is close to 0 once the graph has normalised the image."""
FEW_POINTS = 64
"""Up to so many points are mapped row by row, more by columns: 4,096 take 15 us so, and 100 by rows of 2."""


@dataclass(frozen=True)
class Letterbox:
    """How an image of any size lies inside the graph's image: aspect kept, centred, padded with `PAD_COLOUR`."""

    image_width: int
    """Width of the image as shown, pixels."""
    image_height: int
    """Height of the image as shown, pixels."""
    width: int
    """Width of the graph's image, pixels."""
    height: int
    """Height of the graph's image, pixels."""
    resized_width: int
    """Width of the part that shows the image, at least 1 pixel."""
    resized_height: int
    """Height of the part that shows the image, at least 1 pixel."""

    @classmethod
    def fit(cls, image_width: int, image_height: int, width: int, height: int) -> Letterbox:
        """The largest placement of an image_width x image_height image in a width x height one."""
        assert min(image_width, image_height, width, height) >= 1
        # Whole numbers only, so that the fitting side is met exactly; the other is rounded to the nearest pixel.
        if image_width * height >= image_height * width:
            resized = width, max(1, (2 * image_height * width + image_width) // (2 * image_width))
        else:
            resized = max(1, (2 * image_width * height + image_height) // (2 * image_height)), height
        return cls(image_width, image_height, width, height, *resized)

    @cached_property
    def pad(self) -> tuple[int, int]:
        """Padding on the left and at the top, pixels; right and bottom get one more where it does not divide by 2."""
        return (self.width - self.resized_width) // 2, (self.height - self.resized_height) // 2

    @cached_property
    def scale(self) -> tuple[float, float]:
        """Graph pixels per image pixel along u and v; they differ a little, as the resized image has whole pixels."""
        return self.resized_width / self.image_width, self.resized_height / self.image_height

    def apply(self, image: Image.Image) -> NDArray[np.uint8]:
        """Resize (bilinear with antialiasing) and pad an RGB image: uint8 [height, width, 3], contiguous."""
        assert image.mode == "RGB"
        assert image.size == (self.image_width, self.image_height)
        resized = (self.resized_width, self.resized_height)
        if image.size != resized:
            # No reducing_gap: 3.0 saves 13 of 40 ms at 12 megapixels, but changes values by up to 4.
            image = image.resize(resized, Image.Resampling.BILINEAR)
        if resized == (self.width, self.height):
            return np.array(image)
        canvas = np.empty((self.height, self.width, 3), dtype=np.uint8)
        canvas[:] = PAD_COLOUR
        left, top = self.pad
        canvas[top : top + self.resized_height, left : left + self.resized_width] = np.asarray(image)
        return canvas

    def to_graph(self, points_K2: NDArray[np.floating]) -> NDArray[np.float32]:
        """Map points [K, 2] from pixels of the image to pixels of the graph's image: float32 [K, 2].

        Computed in float64, where 24 bits would cost 0.001 pixels in an image 10,000 pixels wide.
        """
        points_K2 = np.asarray(points_K2, dtype=np.float64)
        if (self.width, self.height) == (self.image_width, self.image_height):
            return points_K2.astype(np.float32, order="C")
        graph_K2 = np.empty(points_K2.shape, dtype=np.float32)
        if len(points_K2) <= FEW_POINTS:
            scale, pad = self._arrays
            return np.add(points_K2 * scale, pad, out=graph_K2, casting="same_kind")
        for axis in (0, 1):
            column = points_K2[:, axis] * self.scale[axis]
            graph_K2[:, axis] = np.add(column, self.pad[axis], out=column)
        return graph_K2

    @cached_property
    def _arrays(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """`scale` and `pad`."""
        return np.array(self.scale), np.array(self.pad, dtype=np.float64)

    def to_image(self, points_K2: NDArray[np.floating]) -> NDArray[np.float64]:
        """Map points [K, 2] from pixels of the graph's image to pixels of the image: float64 [K, 2]."""
        return (np.asarray(points_K2, dtype=np.float64) - self.pad) / self.scale


def inside(points_K2: NDArray[np.floating], image_width: int, image_height: int) -> NDArray[np.bool_]:
    """Which points [K, 2] lie in the image, 0 <= u < image_width and 0 <= v < image_height: bool [K]; NaN does not."""
    u, v = np.asarray(points_K2, dtype=np.float64).reshape(-1, 2).T
    return (u >= 0) & (u < image_width) & (v >= 0) & (v < image_height)
