"""PNG: what surrounds the pixels, and the transparent colour at every bit depth."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from png_support import chunk, png

from spd.errors import ImageError
from spd.images import check_image, read_image

GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
WHITE = [255, 255, 255]
RED = png(1, 1, 8, RGB, b"\0\xff\0\0")


def big_endian(*values: int) -> bytes:
    return struct.pack(f">{len(values)}H", *values)


def grey(*values: int) -> list[list[int]]:
    return [[value] * 3 for value in values]


def key(*values: int) -> bytes:
    """A chunk with the transparent colour."""
    return chunk(b"tRNS", big_endian(*values))


TRANSPARENT = {
    "grey 1": (png(2, 1, 1, GREY, b"\0\x40", before=key(0)), [WHITE, WHITE]),
    "grey 2": (png(4, 1, 2, GREY, b"\0\x1b", before=key(1)), [*grey(0), WHITE, *grey(170, 255)]),
    "grey 4": (png(2, 1, 4, GREY, b"\0\x35", before=key(3)), [WHITE, *grey(85)]),
    "grey 8": (png(2, 1, 8, GREY, b"\0\5\6", before=key(5)), [WHITE, *grey(6)]),
    "grey 16": (png(3, 1, 16, GREY, b"\0" + big_endian(1000, 1001, 0), before=key(1000)), [WHITE, *grey(4, 0)]),
    "rgb 8": (png(2, 1, 8, RGB, b"\0\1\2\3\4\5\6", before=key(1, 2, 3)), [WHITE, [4, 5, 6]]),
    "palette": (
        png(2, 1, 2, PALETTE, b"\0\x10", before=chunk(b"PLTE", bytes(range(12))) + chunk(b"tRNS", b"\0\xff")),
        [WHITE, [3, 4, 5]],
    ),
    "grey and alpha 16": (png(1, 1, 16, GREY_ALPHA, b"\0" + big_endian(0, 0x3333)), [[204, 204, 204]]),
    "rgba 16": (png(1, 1, 16, RGBA, b"\0" + big_endian(0, 0xFFFF, 0, 0x3333)), [[204, 255, 204]]),
}


@pytest.mark.parametrize(("data", "expected"), TRANSPARENT.values(), ids=TRANSPARENT)
def test_transparency(data: bytes, expected: list[list[int]]) -> None:
    assert np.asarray(read_image(data)).tolist() == [expected]


def test_a_transparent_colour_of_16_bits_is_refused() -> None:
    data = png(1, 1, 16, RGB, b"\0" + big_endian(1, 2, 3), before=key(1, 2, 3))
    for read in (read_image, check_image):
        with pytest.raises(ImageError, match="a 16-bit PNG with a transparent colour"):
            read(data)


LARGE = b"x" * 2_000_000
"""More than Pillow takes for a compressed text."""


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("kind", ["zTXt", "iTXt", "tEXt", "iCCP", "broken iCCP", "broken checksum"])
def test_large_and_broken_extras_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, where: str
) -> None:
    monkeypatch.setattr("PIL.PngImagePlugin.MAX_TEXT_MEMORY", 1_000_000)  # of 64 MB, which take a second to write
    chunks = {
        "zTXt": chunk(b"zTXt", b"Comment\0\0" + zlib.compress(LARGE)),
        "iTXt": chunk(b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(LARGE)),
        "tEXt": chunk(b"tEXt", b"Comment\0" + LARGE),
        "iCCP": chunk(b"iCCP", b"profile\0\0" + zlib.compress(LARGE)),
        "broken iCCP": chunk(b"iCCP", b"profile\0\7nonsense"),
        "broken checksum": chunk(b"gAMA", b"1234")[:-4] + b"oops",
    }
    path = tmp_path / "photo.png"
    path.write_bytes(png(1, 1, 8, RGB, b"\0\xff\0\0", **{where: chunks[kind]}))
    check_image(path)
    assert np.asarray(read_image(path)).tolist() == [[[255, 0, 0]]]


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
EXIF = b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0"
HEX = b"\nexif\n    %d\n" % len(EXIF) + EXIF.hex().encode()
ORIENTATIONS = {
    "EXIF": chunk(b"eXIf", EXIF[6:]),
    "XMP": chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP),
    "ImageMagick": chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(HEX)),
}


@pytest.mark.parametrize("extra", ORIENTATIONS.values(), ids=ORIENTATIONS)
@pytest.mark.parametrize("where", ["before", "after"])
def test_the_orientation_is_found_where_programs_write_it(extra: bytes, where: str) -> None:
    data = png(2, 1, 8, GREY, b"\0\1\2", **{where: extra})
    assert np.asarray(read_image(data)).tolist() == [[[1] * 3], [[2] * 3]]


def test_the_default_image_of_an_animation_is_read(tmp_path: Path) -> None:
    path = tmp_path / "animation.png"
    frames = [Image.new("RGB", (2, 2), colour) for colour in ("red", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert read_image(path).getpixel((0, 0)) == (255, 0, 0)


def test_a_cut_image_is_refused_or_read_as_if_it_were_whole() -> None:
    """Without its checksums, and the last chunk, all pixels are still there."""
    whole = 0
    for length in range(len(RED)):
        try:
            assert np.asarray(read_image(RED[:length])).tolist() == [[[255, 0, 0]]]
            whole += 1
        except ImageError:
            assert length < RED.index(b"IEND") - 8, "all of the pixels' chunk is there"
    assert 12 <= whole < 24
