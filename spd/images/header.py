"""What an image file says before its pixels: its size, and how the camera saw."""

from __future__ import annotations

import math
from dataclasses import dataclass

from PIL import ExifTags, Image

from spd.images.reading import IGNORED_WARNINGS, open_image

FILM_DIAGONAL = math.hypot(36, 24)
"""Diagonal of a frame of 35 mm film, millimetres. The equivalent focal length has the photo's diagonal angle."""


@dataclass(frozen=True)
class Header:
    """What is known of an image before its pixels are decoded."""

    width: int
    """Width as stored, pixels; EXIF may turn the image."""
    height: int
    """Height as stored, pixels."""
    focal_px: float | None
    """Focal length in pixels, from EXIF's equivalent for 35 mm film; None where the file does not say.

    A PNG may say it after its pixels, which are not read."""


def read_header(data: bytes, name: str) -> Header:
    """Read no more than the header of an image file.

    Args:
        data: the file, of a format that `read_image` takes.
        name: what messages call the image.

    Raises:
        ImageError: it is not an image, or it is too large. Damaged pixels stay unnoticed.
    """
    with open_image(data, name, pixels=False) as image, IGNORED_WARNINGS:
        return Header(image.width, image.height, _focal_px(image))


def _focal_px(image: Image.Image) -> float | None:
    if image.format == "PNG" and "exif" not in image.info:  # Pillow would decode the pixels and look after them
        return None
    try:
        millimetres = float(image.getexif().get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm])
    except Exception:  # a tag may be missing, of any type, and cut anywhere
        return None
    if not (math.isfinite(millimetres) and millimetres > 0):  # 0 stands for "unknown"
        return None
    return millimetres * math.hypot(image.width, image.height) / FILM_DIAGONAL
