"""From an image file to RGB pixels, as a viewer shows them. Imports nothing but numpy and Pillow."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from spd.errors import ImageError, one_line

ImageSource: TypeAlias = "str | Path | Image.Image | NDArray[np.uint8]"

MAX_PIXELS = 150_000_000
"""Largest image that is decoded, pixels: 450 MB as RGB. Below 179 million, where Pillow itself refuses."""

# Pillow knows more, among them EPS, which starts Ghostscript. The first five are there without importing all plugins.
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "GIF", "WEBP", "TIFF", "AVIF", "JPEG2000")

GREY16_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")


def read_image(source: ImageSource) -> Image.Image:
    """Read an image as a viewer shows it.

    EXIF orientation is applied, transparency is laid on white, 16-bit grey is scaled to 8 bits, of an animation the
    first frame is taken. Colour profiles are not applied.

    Args:
        source: a path, a PIL image, or a uint8 array [H, W, 3] in RGB order or [H, W] grey.

    Returns:
        A new PIL image of mode RGB.

    Raises:
        ImageError: there is no such file, it is not an image, it is damaged or too large, or an array does not fit.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        with _pillow_errors("the image"):
            return _as_shown(source, "the image")
    with _open(Path(source)) as image, _pillow_errors(str(source)):
        return _as_shown(image, str(source))


def check_image(path: Path) -> None:
    """Read no more than an image's header.

    Raises:
        ImageError: there is no such file, it is not an image, or it is too large. Damaged pixels stay unnoticed.
    """
    with _open(path):
        pass


class _Quiet:
    """Ignores warnings while any thread is inside.

    Pillow warns between 89 and 179 million pixels, and of EXIF that it cannot read; both are handled here. Where
    threads overlap, `catch_warnings` alone puts the wrong filters back: the last one to leave restores the first's.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._catch = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._catch = warnings.catch_warnings()
                self._catch.__enter__()
                warnings.simplefilter("ignore")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._catch.__exit__(None, None, None)


_QUIET = _Quiet()


@contextmanager
def _open(path: Path) -> Iterator[Image.Image]:
    """The image in a file, its header read and its size checked, its pixels not decoded yet."""
    try:
        file = path.open("rb")
    except FileNotFoundError as error:
        raise ImageError(f"{path} does not exist; check the path of the image") from error
    except (OSError, ValueError) as error:
        if path.is_dir():
            raise ImageError(f"{path} is a folder, expected an image file") from error
        raise ImageError(f"{path} cannot be opened: {getattr(error, 'strerror', None) or error}") from error
    with file:
        if not file.peek(1):
            raise ImageError(f"{path} is empty (0 bytes), expected an image; copy it again")
        with _pillow_errors(str(path)):
            image = Image.open(file, formats=FORMATS)
        with image:
            if image.width * image.height > MAX_PIXELS:
                raise _too_large(str(path), f"{image.width} x {image.height} pixels")
            yield image


def _too_large(what: str, size: str) -> ImageError:
    return ImageError(f"{what} has {size}, the limit is {MAX_PIXELS // 1_000_000} million; resize it first")


@contextmanager
def _pillow_errors(what: str) -> Iterator[None]:
    """Whatever Pillow raises about a file becomes an ImageError, and its warnings are not shown."""
    try:
        with _QUIET:
            yield
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(what, "too many pixels") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{what} is not an image, expected one of {', '.join(FORMATS)}") from error
    except Exception as error:  # Pillow's decoders raise nearly anything on a damaged file: SyntaxError, KeyError, ...
        raise ImageError(f"{what} is damaged or cut off ({one_line(error)}); copy it again") from error


def _from_array(array: NDArray[np.uint8]) -> Image.Image:
    grey, colour = array.ndim == 2, array.ndim == 3 and array.shape[2] == 3
    if array.dtype != np.uint8 or not (grey or colour) or array.size == 0:
        shape = ", ".join(str(side) for side in array.shape)
        raise ImageError(f"the image array is {array.dtype} [{shape}]; expected uint8 [H, W, 3] in RGB order or [H, W]")
    return Image.fromarray(np.ascontiguousarray(array)).convert("RGB")


def _as_shown(image: Image.Image, what: str) -> Image.Image:
    """Decode to RGB, upright; `what` names the image in messages."""
    if image.width < 1 or image.height < 1:
        raise ImageError(f"{what} has {image.width} x {image.height} pixels; expected at least one")
    image = ImageOps.exif_transpose(image)
    if image.mode in GREY16_MODES:
        image = _grey8(image, what)
    elif image.mode == "F":
        raise ImageError(f"{what} has floating-point pixels, whose range is not known; save it with 8 or 16 bits")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    rgb = image.convert("RGB")
    rgb.info = {}  # EXIF and transparency are applied by now; nobody must apply them again
    return rgb


def _grey8(image: Image.Image, what: str) -> Image.Image:
    """16-bit grey to 8 bits; Pillow's own conversion clips at 255."""
    values = np.asarray(image).astype(np.int64)
    low, high = values.min(), values.max()
    if low < 0 or high > 65535:
        raise ImageError(f"{what} has 32-bit grey pixels from {low} to {high}; save it with 8 or 16 bits")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))  # 65535 = 255 * 257
