"""What an image can be read from: a path, a pipe, bytes or a file."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeAlias, cast

from PIL import Image

from spd.errors import ImageError


class SupportsArray(Protocol):
    """An array, or a tensor in the host's memory."""

    def __array__(self, *arguments: Any, **options: Any) -> Any:
        """The same as a numpy array."""


ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | BinaryIO | Image.Image | SupportsArray"
EXPECTED = "a path, bytes, a binary file, a PIL image, or a uint8 array [H, W, 3]"

MAX_BYTES = 1_500_000_000
"""Most that is read from a pipe: more than `MAX_PIXELS` take without compression, 8 bytes each."""


def source_name(source: object) -> str:
    """What messages call an image."""
    if isinstance(source, str | os.PathLike):
        return str(source)
    name = getattr(source, "name", None)  # of a file
    return name if isinstance(name, str) else "the image"


def is_pipe(path: Path) -> bool:
    """Whether a path can be read only once: a pipe, a terminal or another device."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def read_to_end(file: BinaryIO, what: str) -> bytes:
    """All bytes that are left in a file, which `what` names in messages.

    Raises:
        ImageError: they are too many, it cannot be read, or it was opened as text.
    """
    data = io.BytesIO()
    try:
        while chunk := file.read(1 << 20):
            data.write(chunk)
            if data.tell() > MAX_BYTES:
                raise ImageError(f"{what} gives more than {MAX_BYTES:,} bytes, expected one image; give a file")
    except TypeError as error:
        raise ImageError(f"{what} was opened as text; open it in binary mode, as in open(path, 'rb')") from error
    except (OSError, ValueError) as error:
        raise ImageError(f"{what} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    return data.getvalue()


@contextmanager
def open_file(source: object, what: str) -> Iterator[BinaryIO]:
    """A file that can seek, at its beginning. What cannot is read to its end."""
    if isinstance(source, bytes | bytearray | memoryview):
        yield io.BytesIO(source)
    elif isinstance(source, str | os.PathLike):
        with _open_path(Path(source), what) as file:
            regular = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
            yield file if regular else io.BytesIO(read_to_end(file, what))
    elif hasattr(source, "read"):
        opened = cast("BinaryIO", source)
        if hasattr(source, "seekable") and not getattr(source, "closed", False) and opened.seekable():
            opened.seek(0)
        yield io.BytesIO(read_to_end(opened, what))
    else:
        raise ImageError(f"{what} is of type {type(source).__name__}, expected {EXPECTED}")


def _open_path(path: Path, what: str) -> BinaryIO:
    try:
        return path.open("rb")
    except FileNotFoundError as error:
        raise ImageError(f"{what} does not exist; check the path of the image") from error
    except (OSError, ValueError) as error:
        if path.is_dir():
            raise ImageError(f"{what} is a folder, expected an image file") from error
        raise ImageError(f"{what} cannot be opened: {getattr(error, 'strerror', None) or error}") from error
