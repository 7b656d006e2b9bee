"""What a file is that Pillow does not take for an image, from its first bytes."""

from __future__ import annotations

import codecs

HEAD = 4096
"""Bytes of a file's beginning that are looked at."""

SAVE = "save it as JPEG or PNG"
DEVELOP = "develop it to JPEG or PNG first"
EXPORT = "export the picture as JPEG or PNG"
UNPACK = "unpack it first"
FRAME = "save a frame of it as JPEG or PNG"

# First what only looks like a format that is read, then images, then the rest. Offset, bytes, what it is, what to do.
PICTURES: tuple[tuple[int, bytes, str, str], ...] = (
    (8, b"CR\x02", "a camera's raw photo (CR2)", DEVELOP),
    (0, b"FUJIFILMCCD-RAW", "a camera's raw photo (RAF)", DEVELOP),
    (0, b"IIRO", "a camera's raw photo (ORF)", DEVELOP),
    (0, b"IIRS", "a camera's raw photo (ORF)", DEVELOP),
    (0, b"IIU\0", "a camera's raw photo (RW2)", DEVELOP),
    (0, b"FOVb", "a camera's raw photo (X3F)", DEVELOP),
    (0, b"\0MRM", "a camera's raw photo (MRW)", DEVELOP),
    (4, b"ftypcrx ", "a camera's raw photo (CR3)", DEVELOP),
    (0, b"\xff\x0a", "a JPEG XL image", SAVE),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL image", SAVE),
    (0, b"II\xbc\x01", "a JPEG XR image", SAVE),
    (0, b"8BPS", "a Photoshop file", SAVE),
    (0, b"gimp xcf", "a GIMP file", SAVE),
    (0, b"\x76\x2f\x31\x01", "an OpenEXR image", SAVE),
    (0, b"#?RADIANCE", "a Radiance HDR image", SAVE),
    (0, b"P7\n", "a PAM image", SAVE),
    (0, b"PF", "a floating-point PFM image", SAVE),
    (0, b"qoif", "a QOI image", SAVE),
    (0, b"DDS ", "a DDS texture", SAVE),
    (0, b"\0\0\x01\0", "an icon", SAVE),
    (0, b"SIMPLE  =", "a FITS image", SAVE),
    (128, b"DICM", "a DICOM image", SAVE),
)
OTHERS: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"version https://git-lfs", "a Git LFS pointer", "fetch the file it stands for with: git lfs pull"),
    (0, b"/annex/objects/", "a git-annex pointer", "fetch the file it stands for with: git annex get"),
    (0, b"%PDF", "a PDF document", EXPORT),
    (0, b"%!PS", "a PostScript drawing", SAVE),
    (0, b"\xc5\xd0\xd3\xc6", "a PostScript drawing", SAVE),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a workbook or another Office document", EXPORT),
    (0, b"\x00\x05\x16\x07", "metadata of macOS", "give the file of the same name without ._"),
    (0, b"\x93NUMPY", "a NumPy array", SAVE),
    (0, b"\x89HDF", "an HDF5 file", EXPORT),
    (4, b"ftyp", "a video", FRAME),
    (8, b"AVI ", "a video", FRAME),
    (0, b"\x1a\x45\xdf\xa3", "a video", FRAME),
    (0, b"\0\0\x01\xba", "a video", FRAME),
    (0, b"FLV", "a video", FRAME),
    (0, b"\x1f\x8b", "a gzip archive", UNPACK),
    (0, b"BZh", "a bzip2 archive", UNPACK),
    (0, b"\xfd7zXZ", "an xz archive", UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "a Zstandard archive", UNPACK),
    (0, b"7z\xbc\xaf", "a 7-Zip archive", UNPACK),
    (0, b"Rar!", "a RAR archive", UNPACK),
    (257, b"ustar", "a tar archive", UNPACK),
)
READ: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x89PNG", "PNG"),
    (0, b"GIF8", "GIF"),
    (0, b"BM", "BMP"),
    (8, b"WEBP", "WEBP"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"II+\0", "TIFF"),
    (0, b"MM\0+", "TIFF"),
    (4, b"jP  ", "JPEG2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG2000"),
)
"""Formats that are read, if Pillow was built with what they need."""

HEIC_BRANDS = frozenset((b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs"))
AVIF_BRANDS = frozenset((b"avif", b"avis"))
CONTAINER_BRANDS = frozenset((b"mif1", b"mif2", b"msf1"))
"""What HEIC and AVIF files may call themselves alike."""


def is_heic(head: bytes) -> bool:
    """Whether a file is HEIC, or another kind of HEIF that is not AVIF."""
    brands = _brands(head)
    major = set(brands[:1])
    return bool(major & HEIC_BRANDS or (major & CONTAINER_BRANDS and not AVIF_BRANDS & set(brands)))


def format_read(head: bytes) -> str | None:
    """The format of `READ` whose first bytes these are, or AVIF; None for all else."""
    if AVIF_BRANDS & set(_brands(head)):
        return "AVIF"
    return next((name for offset, magic, name in READ if head.startswith(magic, offset)), None)


def other_picture(head: bytes) -> tuple[str, str] | None:
    """What a picture is that is not read, with its article, and what to do about it; None for all else."""
    for offset, magic, kind, advice in PICTURES:
        if head.startswith(magic, offset):
            return kind, advice
    return ("an SVG drawing", SAVE) if _is_svg(head) else None


def other_file(head: bytes) -> tuple[str, str] | None:
    """What a file is that holds no picture, with its article, and what to do about it; None where that is not known."""
    for offset, magic, kind, advice in OTHERS:
        if head.startswith(magic, offset):
            return kind, advice
    if head.startswith(b"PK\x03\x04"):
        return _zip(head)
    if not head.strip(b"\0"):
        return "zeros only", "copy it again"
    text = _text(head)
    if text is None:
        return None
    if text.lower().startswith(("<!doctype html", "<html", "<head", "<body")):
        return "a web page", "download the image again"
    return "text", "check the path of the image"


def _brands(head: bytes) -> list[bytes]:
    """What a file of the ISO container (HEIC, AVIF, MP4, ...) calls itself, its main brand first."""
    if head[4:8] != b"ftyp":
        return []
    size = min(int.from_bytes(head[:4], "big"), len(head))
    return [head[8:12], *(head[i : i + 4] for i in range(16, size - 3, 4))]


def _is_svg(head: bytes) -> bool:
    text = _text(head)
    return text is not None and text.startswith(("<svg", "<?xml", "<!--", "<!DOCTYPE svg")) and "<svg" in text


def _zip(head: bytes) -> tuple[str, str]:
    if any(name in head for name in (b"[Content_Types].xml", b"mimetypeapplication/vnd.", b"xl/", b"word/", b"ppt/")):
        return "a workbook or another Office document", EXPORT
    return ("a NumPy archive", EXPORT) if b".npy" in head else ("a zip archive", UNPACK)


def _text(head: bytes) -> str | None:
    """The beginning of a text file, without blanks in front; None for other files."""
    encoding = "utf-16" if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(head)  # the last character may be cut
    except UnicodeDecodeError:
        return None
    return None if any(c < " " and c not in "\t\n\r\f\x1b" for c in text) else text.lstrip()
