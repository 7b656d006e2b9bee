"""Images in memory as arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spd.errors import ImageError, one_line
from spd.images.sources import EXPECTED


def array_to_image(source: object, what: str) -> Image.Image:
    """A grey or RGB array, or what converts itself to one, as an RGB image.

    Args:
        source: uint8 [H, W, 3] in RGB order, or [H, W].
        what: what messages call it.

    Raises:
        ImageError: it has another shape or type, or does not convert.
    """
    try:
        array: NDArray[Any] = np.asarray(source)
    except Exception as error:  # what holds the array decides: a tensor on a GPU raises TypeError
        raise ImageError(
            f"{what} does not convert to a numpy array ({one_line(error)}); expected {EXPECTED}"
        ) from error
    is_grey, is_colour = array.ndim == 2, array.ndim == 3 and array.shape[2] == 3
    if array.dtype == np.uint8 and (is_grey or is_colour) and array.size > 0:
        image = Image.fromarray(np.ascontiguousarray(array))
        return image.convert("RGB") if is_grey else image  # of colours, Pillow has made a copy
    shape, hint = ", ".join(map(str, array.shape)), _hint(array) if array.size else ""
    raise ImageError(
        f"{what} is a {array.dtype} array [{shape}]; expected uint8 [H, W, 3] in RGB order or [H, W]{hint}"
    )


def _hint(array: NDArray[Any]) -> str:
    """What to do about an array that does not fit, where that can be told."""
    sides = array.shape
    if array.ndim == 4 and sides[0] == 1:
        return "; take the one image of the batch with array[0]"
    if array.ndim == 3 and sides[0] in (1, 3, 4) and sides[2] not in (1, 3, 4):
        return "; move the channels to the end with array.transpose(1, 2, 0)"
    if array.ndim == 3 and sides[2] == 4:
        return "; leave the alpha out with array[..., :3]"
    if array.ndim == 3 and sides[2] == 1:
        return "; take its one channel with array[..., 0]"
    if array.ndim in (2, 3) and array.dtype.kind == "f":
        return "; scale it to 0..255, round it and convert it with .astype(np.uint8)"
    return ""
