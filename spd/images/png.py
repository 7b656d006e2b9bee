"""What of a PNG file makes its picture."""

from __future__ import annotations

import io
from typing import BinaryIO

from PIL import Image

from spd.errors import ImageError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, RGB = 0, 2
"""Colour types."""

ORIENTATION_TEXTS = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")
"""Keywords of the text chunks that may say which side is up."""
MAX_TEXT = 1 << 20
"""Largest such chunk that is kept, bytes."""


def without_extras(file: BinaryIO, *, pixels: bool = True) -> io.BytesIO:
    """The chunks of a PNG that decide how it looks.

    Colour profiles and texts are left out: they are not used, and Pillow refuses a whole image for a large one. Of an
    animation the default image stays. What is cut off or damaged stays so.

    Args:
        file: at its beginning.
        pixels: False for what comes before the pixels.
    """
    kept = [file.read(len(SIGNATURE))]
    while head := file.read(8):
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        if kind == b"IDAT" and not pixels:
            kept.append(head)
            break
        if kind[:1].isupper() or kind in (b"tRNS", b"eXIf"):
            kept += [head, file.read(length + 4)]
        elif kind in (b"tEXt", b"zTXt", b"iTXt") and length <= MAX_TEXT:
            body = file.read(length + 4)
            kept += [head, body] if body.startswith(ORIENTATION_TEXTS) else []
        else:
            file.seek(length + 4, io.SEEK_CUR)
    return io.BytesIO(b"".join(kept))


def correct_transparency(image: Image.Image, head: bytes, what: str) -> None:
    """Bring the transparent colour of a PNG to the scale of the pixels that Pillow decodes.

    Args:
        image: just opened; its `info` is changed.
        head: the file's first bytes, up to the colour type at least.
        what: what messages call the image.

    Raises:
        ImageError: the colour has 16 bits for each of RGB, of which Pillow keeps 8.
    """
    key = image.info.get("transparency")
    bits, colour_type = head[24], head[25]
    if key is None:
        return
    if colour_type == RGB and bits == 16:
        raise ImageError(f"{what} is a 16-bit PNG with a transparent colour, which is not read; save it with 8 bits")
    if colour_type == GREY and bits in (2, 4) and key < 1 << bits:
        image.info["transparency"] = key * 255 // ((1 << bits) - 1)
