"""Files: which names are checkpoints, and writing one completely or not at all."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

PROTECTED = (errno.EACCES, errno.EPERM, errno.EROFS)
"""Nothing may be created in the folder, or renamed in it."""
MOUNTED = (errno.EBUSY, errno.EXDEV)
"""The file is mounted by itself, as containers do: it can be written, but not replaced."""
CHECKPOINT_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".pt.tar", ".pth.tar", ".safetensors", ".index.json")
"""What the name of a checkpoint ends in, in upper or lower case; `.index.json` names the shards of a large one."""

CHECKPOINT_WEIGHTS = ("auto", "averaged", "raw")
"""Which weights of a checkpoint are asked for: those of a moving average (EMA, SWA), or those that were trained. `auto`
takes the average if there is one."""


def checkpoint_suffix(path: Path) -> str | None:
    """Which of `CHECKPOINT_SUFFIXES` a name ends in; None if it is no checkpoint's."""
    return next((suffix for suffix in CHECKPOINT_SUFFIXES if path.name.lower().endswith(suffix)), None)


def why_no_checkpoint(path: Path) -> str | None:
    """Why `path` cannot be read as a checkpoint, as the rest of a sentence that begins with it; None if it may be one.

    Only the name and the kind of file are looked at.
    """
    suffixes = ", ".join(CHECKPOINT_SUFFIXES)
    if path.is_dir():
        inside = sorted(file for file in path.iterdir() if checkpoint_suffix(file) and not _is_shard(file))
        hint = f"; give the file in it: {inside[0]}" if len(inside) == 1 else ""
        return f"is a folder, expected a checkpoint ({suffixes}){hint}"
    if not path.is_file():
        return f"{'is not a regular file' if path.exists() else 'does not exist'}, expected a checkpoint ({suffixes})"
    if checkpoint_suffix(path) is None:
        return f"has the suffix {path.suffix!r}, expected one of {suffixes}"
    if _is_shard(path):
        return "is one shard of several; give the .index.json file that names them all"
    return None


def _is_shard(path: Path) -> bool:
    """Whether a name says that the file is one of several, as in `model-00001-of-00003.safetensors`."""
    found = re.search(r"-\d{5}-of-(\d{5})\.\w+$", path.name)
    return found is not None and int(found[1]) > 1


@contextmanager
def write_atomically(path: Path) -> Iterator[BinaryIO]:
    """Open `path` for writing; it appears, or replaces the old file, only once everything is written.

    Until then the bytes are in a hidden file of the same folder, which is removed on any error. A symbolic link is
    followed. A device or a pipe is written to directly. A file that can be written but not replaced is overwritten at
    the end: it is mounted by itself, or its folder is write-protected.

    Raises:
        OSError: with `path` as its `filename`, also where the system names none (disk full).
    """
    target = Path(os.path.realpath(path))
    direct = target.exists() and not target.is_file()
    written = target
    try:
        written, file = (target, target.open("wb")) if direct else _open_hidden(target)
        with file:
            yield file
        if not direct:
            _put_in_place(written, target)
    except OSError as error:
        if error.filename is None or Path(error.filename) in (written, target):
            raise OSError(error.errno, error.strerror or str(error), str(path)) from error
        raise
    finally:
        if written != target:
            with suppress(OSError):
                written.unlink()


def _open_hidden(target: Path) -> tuple[Path, BinaryIO]:
    """A new file beside the target, or in the system's folder for such files if there cannot be one."""
    hidden = target.with_name(f".spd-{secrets.token_hex(4)}.tmp")
    try:
        return hidden, hidden.open("xb")
    except OSError as error:
        if error.errno not in PROTECTED or not os.access(target, os.W_OK):
            raise OSError(error.errno, error.strerror, str(target)) from error
    descriptor, name = tempfile.mkstemp(prefix="spd-")
    os.close(descriptor)
    return Path(name), Path(name).open("wb")  # a file opened by number has no name that its user could read back


def _put_in_place(written: Path, target: Path) -> None:
    try:
        os.replace(written, target)
    except OSError as error:
        if error.errno not in PROTECTED + MOUNTED or not os.access(target, os.W_OK):
            raise
        shutil.copyfile(written, target)
