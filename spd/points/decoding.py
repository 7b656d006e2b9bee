"""The text of a CSV, from its bytes."""

from __future__ import annotations

from spd.errors import PointsError

UTF_16 = (b"\xff\xfe", b"\xfe\xff")
"""Byte order marks; spreadsheets write such files as "Unicode text"."""
OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
"""How a workbook of Excel before 2007 begins, and every encrypted one."""
ZIP = b"PK\x03\x04"
BLANKS = "\r\n\t ,;|"
"""What lines without any content are made of."""


def decode(data: bytes, name: str) -> str:
    """The text of a CSV in UTF-8, or in UTF-16 with a byte order mark, without its blank lines at the end.

    Args:
        data: the whole file.
        name: what messages call it.

    Raises:
        PointsError: it is not text, or empty.
    """
    if _is_workbook(data):
        raise PointsError(f"{name} is a workbook; export its sheet as CSV (Save As, CSV UTF-8), and give that file")
    encoding = "utf-16" if data[:2] in UTF_16 else "utf-8"
    if encoding == "utf-8" and b"\0" in data:
        raise PointsError(f"{name} is not a text file; expected a CSV with the columns u,v, saved as UTF-8")
    try:
        text = data.decode(encoding).lstrip("\ufeff")  # some programs write the byte order mark twice
    except UnicodeDecodeError as error:
        if encoding == "utf-16":
            raise PointsError(f"{name} begins as UTF-16, but is not: it may be cut off; save it as UTF-8") from error
        row = data[: error.start].count(b"\n") + 1
        raise PointsError(f"{name} row {row}: byte 0x{data[error.start]:02x} is not UTF-8; save it as UTF-8") from error
    text = _without_blank_end(text)
    if not text.strip():
        raise PointsError(f"{name} is empty; expected a header with the columns u,v and a row per point")
    return text


def _is_workbook(data: bytes) -> bool:
    """Whether this is an .xlsx, .xls or .ods file, whatever its name."""
    if data.startswith(OLE):
        return True
    return data.startswith(ZIP) and (b"xl/" in data or b"opendocument.spreadsheet" in data[:200])


def _without_blank_end(text: str) -> str:
    """Cut after the last line with any content; spreadsheets also write lines of delimiters alone."""
    end = len(text.rstrip(BLANKS))
    while end < len(text) and text[end] not in "\r\n":
        end += 1
    return text[:end]
