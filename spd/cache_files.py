"""Files of the user's cache folder that hold what a library trusts blindly: timings, and compiled kernels.

The first line of a file is JSON: what its bytes were made with, and their sha256. What is damaged, or was made with
something else, is dropped before a library sees it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock
from platformdirs import user_cache_path

from spd.files import write_atomically

LOCK_SECONDS = 60.0
"""Longest wait for another process that is writing, which takes milliseconds."""


def user_cache_folder() -> Path:
    """The user's cache folder, where the system has it; on Linux $XDG_CACHE_HOME/spd-depth or ~/.cache/spd-depth."""
    return user_cache_path("spd-depth", appauthor=False)


class CacheFile:
    """One file, and what its bytes depend on."""

    def __init__(self, path: Path, made_with: Mapping[str, str], what: str) -> None:
        """Name a file, which need not exist.

        Args:
            path: where it is.
            made_with: everything that its bytes depend on.
            what: its kind, for messages, such as "timing cache".
        """
        self.path, self._made_with, self._what = path, dict(made_with), what

    def read(self, say: Callable[[str], None]) -> bytes:
        """The bytes, or nothing; `say` is told, in a line, why a file that exists is not used."""
        try:
            first, _, data = self.path.read_bytes().partition(b"\n")
        except FileNotFoundError:
            return b""
        except OSError as error:
            say(f"{self.path}: the {self._what} cannot be read ({error.strerror or error}); starting an empty one")
            return b""
        try:
            header = json.loads(first)
        except ValueError:
            header = None
        if not isinstance(header, dict) or header.pop("sha256", None) != hashlib.sha256(data).hexdigest():
            say(f"{self.path}: discarded, this is no {self._what} or it is damaged")
            return b""
        if header != self._made_with:
            say(f"{self.path}: discarded, this {self._what} was made with another version or GPU")
            return b""
        return data

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from writing; makes the folder.

        Raises:
            OSError: the folder cannot be written to, or another process writes for more than `LOCK_SECONDS`.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self.path}.lock", timeout=LOCK_SECONDS):
            yield

    def write(self, data: bytes) -> None:
        """Replace the bytes, under `locked`.

        Raises:
            OSError: the file cannot be written.
        """
        header = {**self._made_with, "sha256": hashlib.sha256(data).hexdigest()}
        with write_atomically(self.path) as file:
            file.write(json.dumps(header).encode() + b"\n" + data)


def remove_oldest(folder: Path, pattern: str, most_bytes: int) -> None:
    """Delete the files of a folder that were not used for longest, until those left take at most `most_bytes`."""
    found: list[tuple[float, int, Path]] = []
    for path in folder.glob(pattern):
        with suppress(OSError):  # another process may delete it first
            status = path.stat()
            found.append((status.st_mtime, status.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= most_bytes:
            return
        with suppress(OSError):
            path.unlink()
            total -= size
