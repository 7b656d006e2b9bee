"""From an image file to RGB pixels, as a viewer shows them. Imports nothing but numpy and Pillow."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError, features

from spd.errors import ImageError, one_line
from spd.images import kinds
from spd.images.arrays import array_to_image
from spd.images.png import SIGNATURE, correct_transparency, without_extras
from spd.images.sources import ImageSource, is_pipe, open_file, source_name
from spd.images.tiff import check_tiff, grey_peak

MAX_PIXELS = 150_000_000
"""Largest image that is decoded, pixels: 450 MB as RGB. Below 179 million, where Pillow itself refuses."""
# Pillow knows more, among them EPS, which starts Ghostscript. The first five are there without importing all plugins.
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "GIF", "WEBP", "TIFF", "AVIF", "JPEG2000")

GREY16_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What brings an image upright, by its EXIF orientation."""


def read_image(source: ImageSource, name: str | None = None) -> Image.Image:
    """Read an image as a viewer shows it.

    EXIF orientation is applied, transparency is laid on white, 16-bit grey is scaled to 8 bits, of an animation the
    first frame is taken. Colour profiles are not applied.

    Args:
        source: a path, also of a pipe; the bytes of an image file; a file opened in binary mode, read from its
            beginning if it can seek; a PIL image; or a uint8 array, or what converts itself to one, [H, W, 3] in RGB
            order or [H, W] grey.
        name: what messages call the image; if not given, its path where it has one.

    Returns:
        A new PIL image of mode RGB.

    Raises:
        ImageError: there is no such file, it is not an image, it is damaged or too large, it is of a kind that Pillow
            misreads, or an array does not fit.
    """
    what = name or source_name(source)
    if isinstance(source, Image.Image):
        with _pillow_errors(what):
            check_tiff(source, what)
            return _to_upright_rgb(source, what)
    if not isinstance(source, str | bytes) and hasattr(source, "__array__"):
        return array_to_image(source, what)
    with open_image(source, what) as image, _pillow_errors(what):
        return _to_upright_rgb(image, what)


def check_image(source: str | os.PathLike[str] | bytes, name: str | None = None) -> None:
    """Read no more than an image's header. What can be read only once, such as a pipe, is left alone.

    Raises:
        ImageError: there is no such file, it is not an image, or it is too large. Damaged pixels stay unnoticed.
    """
    if not isinstance(source, bytes) and is_pipe(Path(source)):
        return
    with open_image(source, name or source_name(source), pixels=False):
        pass


class _IgnoredWarnings:
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


IGNORED_WARNINGS = _IgnoredWarnings()


@contextmanager
def open_image(source: object, what: str, *, pixels: bool = True) -> Iterator[Image.Image]:
    """An image whose header is read and whose kind and size are checked; its pixels are not decoded yet.

    For `spd.images` only. Without `pixels` they need not be there.
    """
    with open_file(source, what) as file:
        head = file.read(kinds.HEAD)
        if not head:
            raise ImageError(f"{what} is empty (0 bytes), expected an image; copy it again")
        file.seek(0)
        with _pillow_errors(what, head):
            image = _identify(file, head, what, pixels=pixels)
        with image:
            if image.width * image.height > MAX_PIXELS:
                raise _too_large(what, f"{image.width} x {image.height} pixels")
            yield image


def _identify(file: BinaryIO, head: bytes, what: str, *, pixels: bool) -> Image.Image:
    if kinds.is_heic(head):
        return _open_heic(file, what)
    picture = kinds.other_picture(head)
    if picture is not None:
        raise ImageError(f"{what} is {picture[0]}, which is not read; {picture[1]}")
    if not head.startswith(SIGNATURE):
        image = Image.open(file, formats=FORMATS)
        check_tiff(image, what)
        return image
    image = Image.open(without_extras(file, pixels=pixels), formats=("PNG",))
    correct_transparency(image, head, what)
    return image


def _open_heic(file: BinaryIO, what: str) -> Image.Image:
    try:
        pillow_heif = import_module("pillow_heif")
    except ImportError as error:
        message = "is an HEIC photo, which needs another package; pip install pillow-heif, or save it as JPEG"
        raise ImageError(f"{what} {message}") from error
    return cast("Image.Image", pillow_heif.HeifImageFile(file))


def _too_large(what: str, size: str) -> ImageError:
    return ImageError(f"{what} has {size}, the limit is {MAX_PIXELS // 1_000_000} million; resize it first")


@contextmanager
def _pillow_errors(what: str, head: bytes = b"") -> Iterator[None]:
    """Whatever Pillow raises about a file becomes an ImageError, and its warnings are not shown.

    `what` names the image in messages; `head` are the file's first bytes.
    """
    try:
        with IGNORED_WARNINGS:
            yield
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(what, "too many pixels") from error
    except UnidentifiedImageError as error:
        raise _unidentified(what, head) from error
    except Exception as error:  # Pillow's decoders raise nearly anything on a damaged file: SyntaxError, KeyError, ...
        raise ImageError(f"{what} is damaged or cut off ({one_line(error)}); copy it again") from error


def _unidentified(what: str, head: bytes) -> ImageError:
    """For a file that Pillow does not take for an image of `FORMATS`."""
    known = kinds.format_read(head)
    if known in ("AVIF", "WEBP") and not features.check(known.lower()):
        return ImageError(
            f"{what} is {known}, for which this Pillow was not built; pip install --upgrade pillow, or save it as JPEG"
        )
    if known is not None:
        return ImageError(f"{what} is damaged, or a kind of {known} that is not read; copy it again, or save it as PNG")
    other = kinds.other_file(head)
    if other is not None:
        return ImageError(f"{what} is not an image but {other[0]}; {other[1]}")
    return ImageError(f"{what} is not an image, expected one of {', '.join(FORMATS)}, HEIC")


def _to_upright_rgb(image: Image.Image, what: str) -> Image.Image:
    """Decode an image and turn it as EXIF says; `what` names it in messages."""
    if image.width < 1 or image.height < 1:
        raise ImageError(f"{what} has {image.width} x {image.height} pixels; expected at least one")
    image.load()
    if image.mode in GREY16_MODES:
        upright = _turn(image, _grey_to_8_bits(image, what))
    elif image.mode == "F":
        raise ImageError(f"{what} has floating-point pixels, whose range is not known; save it with 8 or 16 bits")
    else:
        upright = _turn(image, image)
    if upright.mode == "La":
        upright = upright.convert("LA")
    if upright.has_transparency_data:
        rgba = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    rgb = upright.convert("RGB")
    rgb.info = {}  # EXIF and transparency are applied by now; nobody must apply them again
    return rgb


def _turn(image: Image.Image, pixels: Image.Image) -> Image.Image:
    """`pixels`, turned upright as the EXIF of `image` says. EXIF that cannot be read says nothing."""
    if image.format == "HEIF":  # the container's own turn counts, which is applied; EXIF repeats it
        return pixels
    try:
        turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # a tag may be of any type, and cut anywhere
        turn = None
    return pixels if turn is None else pixels.transpose(turn)


def _grey_to_8_bits(image: Image.Image, what: str) -> Image.Image:
    """Pillow's own conversion clips at 255. The transparent value, if there is one, becomes white."""
    values = np.asarray(image).astype(np.int32)
    low, high, peak = values.min(), values.max(), grey_peak(image)
    if low < 0 or high > peak:
        raise ImageError(
            f"{what} has grey pixels from {low} to {high}, expected 0 to {peak}; save it with 8 or 16 bits"
        )
    grey = (values * 510 + peak) // (2 * peak)  # rounded to the nearest
    grey[values == image.info.get("transparency", -1)] = 255
    return Image.fromarray(grey.astype(np.uint8))
