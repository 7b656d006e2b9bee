"""Writing a file completely or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def write_atomically(path: Path) -> Iterator[BinaryIO]:
    """Open `path` for writing; it appears, or replaces the old file, only once everything is written.

    Until then the bytes are in a hidden file of the same folder, which is removed on any error. A symbolic link is
    followed. A device or a pipe is written to directly.

    Raises:
        OSError: with `path` as its `filename`, also where the system names none (disk full).
    """
    target = Path(os.path.realpath(path))
    direct = target.exists() and not target.is_file()
    written = target if direct else target.with_name(f".spd-{secrets.token_hex(4)}.tmp")
    try:
        with written.open("wb" if direct else "xb") as file:
            yield file
        if not direct:
            os.replace(written, target)
    except BaseException as error:
        if not direct:
            with suppress(OSError):
                written.unlink()
        if isinstance(error, OSError) and error.filename in (None, str(written)):
            raise OSError(error.errno, error.strerror or str(error), str(path)) from error
        raise
