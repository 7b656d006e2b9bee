"""Images as a viewer shows them."""

import io
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from png_support import png

from spd.errors import ImageError
from spd.images import MAX_PIXELS, check_image, read_image

RNG = np.random.default_rng(0)
PHOTO = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)


def save(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


def pixels(image: Image.Image) -> NDArray[np.uint8]:
    assert image.mode == "RGB"
    return np.asarray(image)


# How a camera that was held as EXIF says stores what a viewer shows upright.
STORED: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    1: lambda shown: shown,
    2: lambda shown: shown[:, ::-1],
    3: lambda shown: shown[::-1, ::-1],
    4: lambda shown: shown[::-1],
    5: lambda shown: shown.swapaxes(0, 1),
    6: lambda shown: np.rot90(shown, 1),
    7: lambda shown: shown[::-1, ::-1].swapaxes(0, 1),
    8: lambda shown: np.rot90(shown, -1),
}


@pytest.mark.parametrize("suffix", ["png", "tiff", "webp"])
@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation(tmp_path: Path, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](PHOTO)))
    options = {"lossless": True} if suffix == "webp" else {}
    image = read_image(save(tmp_path / f"photo.{suffix}", stored, exif=exif, **options))
    np.testing.assert_array_equal(pixels(image), PHOTO)
    np.testing.assert_array_equal(pixels(read_image(image)), PHOTO)  # applied once, not again


@pytest.mark.parametrize("suffix", ["png", "tiff", "pgm"])
def test_16_bit_grey_is_scaled(tmp_path: Path, suffix: str) -> None:
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    image = read_image(save(tmp_path / f"ramp.{suffix}", Image.fromarray(ramp)))
    expected = np.rint(ramp / 257)[..., None].repeat(3, axis=2)
    np.testing.assert_array_equal(pixels(image), expected)


def test_32_bit_grey_out_of_range_and_float_are_refused(tmp_path: Path) -> None:
    for value, fragment in ((np.int32(70000), "signed samples"), (np.float32(0.5), "floating-point")):
        path = save(tmp_path / "grey.tiff", Image.fromarray(np.full((2, 2), value)))
        with pytest.raises(ImageError, match=fragment):
            read_image(path)


def palette(colours: list[int]) -> Image.Image:
    image = Image.new("P", (2, 1))
    image.putpalette(colours)
    image.putdata([0, 1])
    return image


MODES = {
    "rgba on white": (Image.new("RGBA", (1, 1), (100, 0, 200, 51)), {}, [[(224, 204, 244)]]),
    "rgba hidden": (Image.new("RGBA", (1, 1), (1, 2, 3, 0)), {}, [[(255, 255, 255)]]),
    "grey with alpha": (Image.new("LA", (1, 1), (0, 51)), {}, [[(204, 204, 204)]]),
    "grey": (Image.new("L", (1, 1), 77), {}, [[(77, 77, 77)]]),
    "black and white": (Image.new("1", (1, 1), 1), {}, [[(255, 255, 255)]]),
    "palette": (palette([10, 20, 30, 40, 50, 60]), {}, [[(10, 20, 30), (40, 50, 60)]]),
    "palette with a hole": (
        palette([10, 20, 30, 40, 50, 60]),
        {"transparency": 0},
        [[(255, 255, 255), (40, 50, 60)]],
    ),
    "rgb with a colour key": (Image.new("RGB", (1, 1), (9, 8, 7)), {"transparency": (9, 8, 7)}, [[(255, 255, 255)]]),
}


@pytest.mark.parametrize(("image", "options", "expected"), MODES.values(), ids=MODES)
def test_modes(tmp_path: Path, image: Image.Image, options: dict[str, Any], expected: list[Any]) -> None:
    path = save(tmp_path / "image.png", image, **options)
    np.testing.assert_allclose(pixels(read_image(path)), expected, atol=1)


def test_premultiplied_grey() -> None:
    np.testing.assert_allclose(pixels(read_image(Image.new("La", (1, 1), (50, 100)))), [[(205, 205, 205)]], atol=1)


def test_cmyk(tmp_path: Path) -> None:
    path = save(tmp_path / "red.tiff", Image.new("CMYK", (1, 1), (0, 255, 255, 0)))
    np.testing.assert_array_equal(pixels(read_image(path)), [[(255, 0, 0)]])


@pytest.mark.parametrize("suffix", ["png", "jpeg", "tiff", "ppm", "bmp", "gif", "webp", "jp2"])
@pytest.mark.parametrize("part", [0.5, 0.95])
def test_truncated(tmp_path: Path, suffix: str, part: float) -> None:
    path = save(tmp_path / f"cut.{suffix}", Image.fromarray(RNG.integers(0, 256, (64, 48, 3), dtype=np.uint8)))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(ImageError, match=r"cut\.\w+ is (damaged|not an image)") as caught:
        read_image(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("side", [12500, 60000])  # below and above the size that Pillow itself refuses
def test_image_bomb(tmp_path: Path, side: int) -> None:
    assert side * side > MAX_PIXELS
    path = tmp_path / "bomb.png"
    path.write_bytes(png(side, side, 8, 2, b""))
    filters = list(warnings.filters)
    for read in (read_image, check_image):
        with pytest.raises(ImageError, match="the limit is 150 million"):
            read(path)
    assert list(warnings.filters) == filters


def test_files_that_are_no_images(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "drawing.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")
    cases = {
        "empty.png": "is empty",
        "text.png": "is not an image but text",
        "drawing.eps": "is not an image but a PostScript drawing",  # Pillow would start Ghostscript
        "missing.png": "does not exist",
        ".": "is a folder",
        "a\0b": "cannot be opened",
    }
    for name, fragment in cases.items():
        for read in (read_image, check_image):
            with pytest.raises(ImageError, match=fragment):
                read(tmp_path / name)


def tag(number: int, kind: int, count: int, value: bytes) -> bytes:
    """A tag of EXIF, its value of four bytes in place."""
    return struct.pack("<HHL", number, kind, count) + value.ljust(4, b"\0")


def exif(*tags: bytes, rest: bytes = b"") -> bytes:
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + b"".join(tags) + bytes(4) + rest


AT_END = struct.pack("<L", 8 + 2 + 2 * 12 + 4)
"""Where the bytes after a directory of two tags begin."""
SHORT_6 = tag(0x0112, 3, 1, struct.pack("<H", 6))
ODD_EXIF = {
    "cut": (b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01", False),
    "not TIFF": (b"Exif\0\0nonsense", False),
    "empty": (b"Exif\0\0", False),
    "text": (exif(tag(0x0112, 2, 4, b"six")), False),
    "two, of which the first counts": (exif(tag(0x0112, 3, 2, struct.pack("<HH", 6, 3))), True),
    "nine": (exif(tag(0x0112, 3, 1, struct.pack("<H", 9))), False),
    "NaN": (exif(tag(0x0112, 5, 1, AT_END), tag(0x0100, 3, 1, b""), rest=bytes(8)), False),
    "beyond the end": (exif(tag(0x0112, 5, 1, struct.pack("<L", 9999))), False),
    "long": (exif(tag(0x0112, 4, 1, struct.pack("<L", 6))), True),
    "another tag has a wrong type": (exif(tag(0x010F, 3, 1, b"\1\0"), SHORT_6), True),
    "another tag is a NaN": (exif(SHORT_6, tag(0x011A, 5, 1, AT_END), rest=bytes(8)), True),
    "a sub-directory is text": (exif(SHORT_6, tag(0x8769, 2, 4, b"abc")), True),
}
"""EXIF, and whether its orientation, 6, can be told."""


@pytest.mark.parametrize(("block", "is_turned"), ODD_EXIF.values(), ids=ODD_EXIF)
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_of_odd_exif_only_the_orientation_matters(tmp_path: Path, block: bytes, is_turned: bool, suffix: str) -> None:
    stored = Image.fromarray(PHOTO)
    plain = pixels(read_image(save(tmp_path / f"plain.{suffix}", stored)))
    path = save(tmp_path / f"photo.{suffix}", stored, exif=block)
    check_image(path)
    np.testing.assert_array_equal(pixels(read_image(path)), np.rot90(plain, -1) if is_turned else plain)


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 255)), min_size=1, max_size=8))
def test_exif_with_any_bytes_changed(changes: list[tuple[int, int]]) -> None:
    block = bytearray(exif(tag(0x010F, 2, 4, b"cam"), SHORT_6, tag(0x011A, 5, 1, AT_END), rest=bytes(16)))
    for place, byte in changes:
        block[6 + place % (len(block) - 6)] = byte
    file = io.BytesIO()
    Image.fromarray(PHOTO).save(file, "JPEG", exif=bytes(block))
    assert read_image(file.getvalue()).size in ((9, 6), (6, 9))


def test_samples(samples: Path) -> None:
    upright = read_image(samples / "rgb_only_derived" / "exif_orientation6.jpg")
    assert upright.size == (640, 480)
    for path in sorted(samples.glob("rgb_only*/*")):
        assert np.asarray(read_image(path)).std() > 10, path  # neither black nor clipped to white


def test_files_are_closed(tmp_path: Path) -> None:
    """An open file that is collected is a ResourceWarning, and those are errors here."""
    path = save(tmp_path / "a.png", Image.fromarray(PHOTO))
    check_image(path)
    read_image(path)
    assert read_image(Image.open(io.BytesIO(path.read_bytes()))).size == (9, 6)
