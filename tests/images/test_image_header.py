"""Size and focal length, from a file whose pixels are not decoded."""

from __future__ import annotations

import io
from typing import Any

import pytest
from PIL import ExifTags, Image, PngImagePlugin

from spd.errors import ImageError
from spd.images import read_header


def photo(kind: str, focal: Any) -> bytes:
    """A file of 300 x 200 pixels; `focal` is EXIF's length in millimetres of 35 mm film."""
    exif, file = Image.Exif(), io.BytesIO()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = focal
    Image.new("RGB", (300, 200)).save(file, kind, exif=exif)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_focal_length(kind: str) -> None:
    header = read_header(photo(kind, 28), "the image")
    assert (header.width, header.height) == (300, 200)
    # 300 x 200 has the shape of the 36 x 24 mm frame, so the width's scale is the diagonal's.
    assert header.focal_px == pytest.approx(28 * 300 / 36)


@pytest.mark.parametrize("focal", [0, "x"])
def test_a_focal_length_that_says_nothing(focal: Any) -> None:
    assert read_header(photo("JPEG", focal), "the image").focal_px is None


def test_pixels_of_a_png_are_not_decoded_for_its_exif(monkeypatch: pytest.MonkeyPatch) -> None:
    data = photo("PNG", 28)  # Pillow writes EXIF after the pixels

    def refuse(*_: Any) -> None:
        raise AssertionError("the pixels were decoded")

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", refuse)
    assert read_header(data, "the image").focal_px is None


def test_no_exif() -> None:
    file = io.BytesIO()
    Image.new("L", (7, 5)).save(file, "PNG")
    header = read_header(file.getvalue(), "the image")
    assert (header.width, header.height, header.focal_px) == (7, 5, None)


def test_pixels_are_not_looked_at() -> None:
    whole = photo("JPEG", 28)
    assert read_header(whole[: len(whole) - 200], "the image").width == 300


def test_no_image() -> None:
    with pytest.raises(ImageError, match=r"^the upload is not an image but text"):
        read_header(b"hello", "the upload")
