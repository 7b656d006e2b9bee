"""Folders in which something is made completely before it is put in its place.

Each is hidden, has a name of its own, and a lock file beside it that its process holds. The system gives up the lock of
a process that was killed, so whoever next makes the same thing can tell what was left and removes it. Process numbers
could not tell: they are used again, and in containers every command may be process 1.
"""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

_PARTIAL, _REPLACED, _LOCK = ".partial", ".replaced", ".lock"


@contextmanager
def staging(parent: Path, name: str) -> Iterator[Path]:
    """An empty hidden folder in `parent`, removed at the end with everything that is still in it.

    Args:
        parent: an existing folder.
        name: of what is made there. Leftovers of the same name are removed first.

    Raises:
        OSError: the folder cannot be made.
    """
    remove_leftovers(parent, name)
    folder = parent / f".{name}.{secrets.token_hex(4)}{_PARTIAL}"
    lock = folder.with_suffix(_LOCK)
    try:
        with FileLock(lock):
            folder.mkdir()
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
    finally:
        lock.unlink(missing_ok=True)


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """As `staging`, but at the end the folder becomes `target`, and replaces it if it exists; not on an error.

    Raises:
        OSError: the folder cannot be made, or not be put in its place.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with staging(target.parent, target.name) as folder:
        yield folder
        replaced = folder.with_suffix(_REPLACED)
        try:
            if target.exists():
                target.rename(replaced)
            folder.rename(target)
        except BaseException:
            if replaced.exists() and not target.exists():
                replaced.rename(target)
            raise
        shutil.rmtree(replaced, ignore_errors=True)


def remove_leftovers(parent: Path, name: str) -> None:
    """Remove what killed processes left of `staging` and `staged`, and put back what they had moved away."""
    pattern = re.compile(rf"\.{re.escape(name)}\.[0-9a-f]{{8}}{re.escape(_LOCK)}")
    found = parent.iterdir() if parent.is_dir() else ()
    for lock in [path for path in found if pattern.fullmatch(path.name)]:
        replaced = lock.with_suffix(_REPLACED)
        with suppress(Timeout, OSError):  # it is in use, or not ours to remove
            with FileLock(lock, blocking=False):
                if replaced.exists() and not (parent / name).exists():
                    replaced.rename(parent / name)
                for folder in (replaced, lock.with_suffix(_PARTIAL)):
                    shutil.rmtree(folder, ignore_errors=True)
            lock.unlink(missing_ok=True)
