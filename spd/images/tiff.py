"""Which kinds of TIFF are read.

Pillow unpacks some kinds as other pixels without a word. A test writes all combinations of bits, sample format, planes,
compression, colours, alpha, byte order and layout, and compares what is read with what was written.
"""

from __future__ import annotations

from PIL import Image, TiffImagePlugin
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    COLORMAP,
    COMPRESSION,
    EXTRASAMPLES,
    FILLORDER,
    PHOTOMETRIC_INTERPRETATION,
    PLANAR_CONFIGURATION,
    SAMPLEFORMAT,
    SAMPLESPERPIXEL,
    YCBCRSUBSAMPLING,
)
from PIL.TiffImagePlugin import ImageFileDirectory_v2 as Tags

from spd.errors import ImageError

NEW_SUBFILE_TYPE, DNG_VERSION = 254, 50706
"""Tags that Pillow has no constants for."""
PREVIEW, MASK = 1, 4
"""Bits of NewSubfileType."""
UNSIGNED, SIGNED, FLOAT = 1, 2, 3
"""Values of SampleFormat."""
WHITE_IS_ZERO, BLACK_IS_ZERO, COLOURS, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6
"""Values of PhotometricInterpretation."""
UNCOMPRESSED, JPEG = 1, 7
LOSSLESS = (5, 8, 32946, 32773)
"""LZW, deflate by its two numbers, PackBits."""
PLANE_COLOURS = (BLACK_IS_ZERO, COLOURS, PALETTE, CMYK)
"""Those that are read from separate planes without compression, if samples have 8 bits."""


def check_tiff(image: Image.Image, what: str) -> None:
    """Refuse a TIFF that Pillow would read as other pixels; other images pass.

    Raises:
        ImageError: says what is not read about it.
    """
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return
    tags = image.tag_v2
    if DNG_VERSION in tags or tags.get(NEW_SUBFILE_TYPE, 0) & PREVIEW:
        raise ImageError(f"{what} begins with a preview, as raw photos do; develop it to JPEG or PNG first")
    odd = _odd_samples(tags) or _odd_colours(tags) or _odd_planes(tags)
    if odd is not None:
        raise ImageError(f"{what} is a TIFF with {odd}, which is not read; save it as PNG, or with 8 bits in one plane")


def grey_peak(image: Image.Image) -> int:
    """The value of white in an image of a 16-bit grey mode; Pillow keeps the values of a 12-bit TIFF."""
    twelve = isinstance(image, TiffImagePlugin.TiffImageFile) and _bits(image.tag_v2) == 12
    return 4095 if twelve else 65535


def _bits(tags: Tags) -> int:
    return int(max(tags.get(BITSPERSAMPLE, (1,))))


def _odd_samples(tags: Tags) -> str | None:
    formats = set(tags.get(SAMPLEFORMAT, (UNSIGNED,)))
    if formats != {UNSIGNED}:
        names = {SIGNED: "signed", FLOAT: "floating-point"}
        return f"{names.get(max(formats), 'unknown')} samples"
    return f"{_bits(tags)}-bit samples" if _bits(tags) > 16 else None


def _odd_colours(tags: Tags) -> str | None:
    compression = tags.get(COMPRESSION, UNCOMPRESSED)
    colours = tags.get(PHOTOMETRIC_INTERPRETATION)
    if tags.get(NEW_SUBFILE_TYPE, 0) & MASK:
        return "a mask as its first picture"
    if colours is None and compression not in (6, JPEG):
        return "no tag for the meaning of its samples (PhotometricInterpretation)"
    if colours == WHITE_IS_ZERO and _bits(tags) > 8:
        return f"{_bits(tags)}-bit samples where 0 is white"
    if colours == YCBCR and compression == UNCOMPRESSED and tags.get(YCBCRSUBSAMPLING, (2, 2)) != (1, 1):
        return "subsampled colours but no compression"
    if colours == PALETTE and 0 < max(tags[COLORMAP]) < 256:
        return "a colour map of 8 bits"
    return None


def _odd_planes(tags: Tags) -> str | None:
    """Why separate planes are not read: Pillow takes wrong bytes for some of them, or loses the alpha of grey."""
    if tags.get(PLANAR_CONFIGURATION, 1) != 2:
        return None
    bits, colours = _bits(tags), tags.get(PHOTOMETRIC_INTERPRETATION)
    extra = tags.get(EXTRASAMPLES, ())
    own = 4 if colours == CMYK else 3 if colours in (COLOURS, YCBCR) else 1
    is_counted = tags.get(SAMPLESPERPIXEL, 1) == own + len(extra)
    if tags.get(COMPRESSION, UNCOMPRESSED) == UNCOMPRESSED:
        is_known = bits == 8 and tags.get(FILLORDER, 1) == 1 and colours in PLANE_COLOURS
    else:
        is_known = tags[COMPRESSION] in LOSSLESS and colours in (*PLANE_COLOURS, WHITE_IS_ZERO, YCBCR)
    has_lost_alpha = own == 1 and any(extra)
    if is_counted and is_known and not has_lost_alpha:
        return None
    return f"{bits}-bit samples in separate planes"
