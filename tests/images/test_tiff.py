"""TIFF: every kind is read as it was written, or refused."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiff_support import (
    ALPHA,
    BLACK_IS_ZERO,
    CMYK,
    CODECS,
    COLOURS,
    FLOAT,
    LAB,
    PALETTE,
    PREMULTIPLIED,
    SIGNED,
    UNSIGNED,
    WHITE_IS_ZERO,
    YCBCR,
    Tiff,
    random_tiff,
)

from spd.errors import ImageError
from spd.images import check_image, read_image

KINDS: list[tuple[int, tuple[int, ...]]] = [
    (WHITE_IS_ZERO, ()),
    (BLACK_IS_ZERO, ()),
    (BLACK_IS_ZERO, (0,)),
    (BLACK_IS_ZERO, (PREMULTIPLIED,)),
    (BLACK_IS_ZERO, (ALPHA,)),
    (COLOURS, ()),
    (COLOURS, (0,)),
    (COLOURS, (PREMULTIPLIED,)),
    (COLOURS, (ALPHA,)),
    (COLOURS, (0, 0)),
    (CMYK, ()),
    (CMYK, (0,)),
]
"""Colours and extra samples."""
SAMPLES = [(bits, UNSIGNED) for bits in (1, 2, 4, 8, 10, 12, 16, 32)]
SAMPLES += [(8, SIGNED), (16, SIGNED), (32, SIGNED), (16, FLOAT), (32, FLOAT)]
ROUNDING = 3
"""Steps of 255 that alpha and CMYK may be off: Pillow computes them with 8 bits, one after the other."""


def is_right(tiff: Tiff) -> bool:
    """Whether a picture is read; fails if it is read as other pixels than were written."""
    try:
        pixels = np.asarray(read_image(tiff.encode()))
    except ImageError:
        return False
    expected = tiff.shown()
    assert expected is not None, tiff
    tolerance = ROUNDING if tiff.colours == CMYK or any(tiff.extra) else 1
    np.testing.assert_allclose(pixels, expected, rtol=0, atol=tolerance, err_msg=str(tiff))
    return True


@pytest.mark.parametrize(("bits", "sample_format"), SAMPLES)
def test_pixels_are_those_that_were_written_or_none(bits: int, sample_format: int) -> None:
    kinds = [*KINDS, (PALETTE, ())] if bits <= 8 and sample_format == UNSIGNED else KINDS
    for (colours, extra), planes, compression, fill_order in product(kinds, (False, True), (1, 8), (1, 2)):
        endian = "<>"[(planes + fill_order) % 2]
        options = {"planes": planes, "compression": compression, "fill_order": fill_order}
        is_right(random_tiff(bits, colours, extra, sample_format=sample_format, endian=endian, rows=3, **options))


@given(
    st.sampled_from(SAMPLES),
    st.sampled_from(KINDS),
    st.fixed_dictionaries(
        {
            "planes": st.booleans(),
            "compression": st.sampled_from(sorted(CODECS)),
            "fill_order": st.sampled_from((1, 2)),
            "endian": st.sampled_from("<>"),
            "tile": st.sampled_from((None, (16, 16))),
            "rows": st.sampled_from((1, 3, 1000)),
        }
    ),
)
def test_any_kind(samples: tuple[int, int], kind: tuple[int, tuple[int, ...]], options: dict[str, Any]) -> None:
    """As above, with all layouts."""
    bits, sample_format = samples
    if sample_format == UNSIGNED and bits in (8, 16) and options["compression"] in (5, 8):
        options["predictor"] = 2
    is_right(random_tiff(bits, *kind, sample_format=sample_format, **options))


USUAL = [
    *((bits, BLACK_IS_ZERO, ()) for bits in (1, 2, 4, 8, 16)),
    *((bits, WHITE_IS_ZERO, ()) for bits in (1, 2, 4, 8)),
    *((bits, PALETTE, ()) for bits in (1, 2, 4, 8)),
    *((bits, COLOURS, extra) for bits in (8, 16) for extra in ((), (0,), (PREMULTIPLIED,), (ALPHA,))),
    (8, BLACK_IS_ZERO, (ALPHA,)),
    (8, BLACK_IS_ZERO, (PREMULTIPLIED,)),
    (8, CMYK, ()),
    (16, CMYK, ()),
]


@pytest.mark.parametrize(("bits", "colours", "extra"), USUAL)
def test_usual_kinds_are_read(bits: int, colours: int, extra: tuple[int, ...]) -> None:
    for compression, endian, tile in product(CODECS, "<>", (None, (16, 16))):
        assert is_right(random_tiff(bits, colours, extra, compression=compression, endian=endian, tile=tile, rows=4))
    assert is_right(random_tiff(8, COLOURS, planes=True))


def test_12_bit_grey_is_scaled_by_its_own_white() -> None:
    assert is_right(random_tiff(12, BLACK_IS_ZERO))


REFUSED = {
    "16 bits in planes": (random_tiff(16, COLOURS, planes=True), "16-bit samples in separate planes"),
    "alpha of grey in planes": (random_tiff(8, BLACK_IS_ZERO, (ALPHA,), planes=True, compression=8), "separate planes"),
    "lab in planes": (random_tiff(8, LAB, planes=True), "separate planes"),
    "16 bits, white is 0": (random_tiff(16, WHITE_IS_ZERO), "0 is white"),
    "signed": (random_tiff(8, BLACK_IS_ZERO, sample_format=SIGNED), "signed samples"),
    "32 bits": (Tiff(np.full((1, 1, 1), 7), 32, BLACK_IS_ZERO), "32-bit samples"),
    "float": (random_tiff(32, BLACK_IS_ZERO, sample_format=FLOAT), "floating-point samples"),
    "10 bits": (random_tiff(10, BLACK_IS_ZERO), "a kind of TIFF that is not read"),
    "8-bit colour map": (
        Tiff(np.zeros((1, 1, 1), int), 1, PALETTE, tags={320: ("H", [9, 99] * 3)}),
        "a colour map of 8 bits",
    ),
    "colour subsampling": (Tiff(np.zeros((2, 2, 3), int), 8, YCBCR), "subsampled"),
    "no colours": (random_tiff(8, BLACK_IS_ZERO, tags={262: None}), "PhotometricInterpretation"),
    "preview": (random_tiff(8, COLOURS, tags={254: ("L", [1])}), "begins with a preview"),
    "DNG": (random_tiff(8, COLOURS, tags={50706: ("B", [1, 4, 0, 0])}), "begins with a preview"),
    "mask": (random_tiff(8, BLACK_IS_ZERO, tags={254: ("L", [4])}), "a mask as its first picture"),
}


@pytest.mark.parametrize(("tiff", "fragment"), REFUSED.values(), ids=REFUSED)
def test_refusals_say_what_is_not_read(tmp_path: Path, tiff: Tiff, fragment: str) -> None:
    """In a file already by its header, and in an image that Pillow has opened."""
    path = tmp_path / "photo.tif"
    path.write_bytes(tiff.encode())
    for read in (check_image, read_image):
        with pytest.raises(ImageError, match=rf"photo\.tif .*{fragment}"):
            read(path)
    if "a kind of" not in fragment:
        with Image.open(path) as image, pytest.raises(ImageError, match=fragment):
            read_image(image)


def test_full_colour_without_subsampling_and_lab_are_read() -> None:
    ycbcr = Tiff(np.array([[[50, 128, 128], [200, 90, 200]]]), 8, YCBCR, tags={530: ("H", [1, 1])})
    # ITU-R BT.601: R = Y + 1.402 (Cr - 128), and so on
    expected = [[50, 50, 50], [255, 200 - 0.344136 * -38 - 0.714136 * 72, 200 + 1.772 * -38]]
    np.testing.assert_allclose(np.asarray(read_image(ycbcr.encode()))[0], expected, atol=1)
    lab = Tiff(np.array([[[255, 0, 0], [0, 0, 0], [136, 208 - 256, 179 - 256]]]) % 256, 8, LAB)
    white, black, blue = np.asarray(read_image(lab.encode()))[0].astype(int)
    assert white.min() >= 254
    assert black.max() <= 1
    assert blue[2] > blue[0] + 100  # L 53, a -48 and b -77 are a strong blue
