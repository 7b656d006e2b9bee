"""Writing a file completely or not at all, and telling what a killed process left."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

MAY_NOT_CREATE = (errno.EACCES, errno.EPERM, errno.EROFS)
MAY_NOT_REPLACE = (errno.EBUSY, errno.EXDEV, *MAY_NOT_CREATE)
"""What a rename onto a file says that is mounted by itself, as containers do, or is in a protected folder."""


@contextmanager
def write_atomically(path: Path) -> Iterator[BinaryIO]:
    """Open `path` for writing; it appears, or replaces the old file, only once everything is written.

    Until then the bytes are in a hidden file of the same folder, which is removed on any error. A symbolic link is
    followed. A device or a pipe is written to directly. A file that can be written, but not replaced, is overwritten
    at the end: one that is mounted by itself, or is in a folder without write permission.

    Raises:
        OSError: with `path` as its `filename`, also where the system names none (disk full).
    """
    target = Path(os.path.realpath(path))
    hidden = target.with_name(f".spd-{secrets.token_hex(4)}.tmp")
    try:
        if target.exists() and not target.is_file():
            with target.open("wb") as file:
                yield file
            return
        with _open_hidden(hidden, target) as file:
            yield file
            file.flush()
            file.seek(0)
            _put_in_place(file, hidden, target)
    except OSError as error:
        if error.filename in (None, str(hidden), str(target)):
            raise OSError(error.errno, error.strerror or str(error), str(path)) from error
        raise
    finally:
        with suppress(OSError):
            hidden.unlink()
