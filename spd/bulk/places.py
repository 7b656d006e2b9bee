"""Files here or in object storage, as pyarrow reaches them, by the same names as on the command line."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pyarrow as pa
from pyarrow import fs, parquet

from spd.errors import InputError, one_line
from spd.files import write_atomically

WILD = frozenset("*?[")
"""Characters that begin a wildcard."""


@dataclass(frozen=True)
class Place:
    """A file or a folder."""

    name: str
    """As the user wrote it: a path, or an address such as s3://bucket/photos."""

    @property
    def is_local(self) -> bool:
        """Whether it is a path of this machine."""
        return "://" not in self.name

    def __truediv__(self, name: str) -> Place:
        return Place(f"{self.name.rstrip('/') or '/'}/{name}")

    def opened(self) -> tuple[Any, str]:
        """Its file system, and its path there.

        Raises:
            InputError: there is no such kind of address, or it cannot be reached.
        """
        if self.is_local:
            return fs.LocalFileSystem(), self.name
        try:
            system, path = fs.FileSystem.from_uri(self.name)
        except (OSError, ValueError) as error:
            raise InputError(f"{self.name} cannot be reached: {one_line(error)}") from error
        return system, path

    def read(self, limit: int) -> bytes:
        """Its bytes.

        Raises:
            InputError: it cannot be read, or has more bytes than the limit.
        """
        system, path = self.opened()
        try:
            with system.open_input_stream(path) as file:
                data: bytes = file.read(limit + 1)
        except OSError as error:
            raise InputError(f"{self.name} cannot be read: {one_line(error)}") from error
        if len(data) > limit:
            raise InputError(f"{self.name} has more than {limit:,} bytes, expected one image")
        return data

    def write(self, data: bytes) -> None:
        """Put bytes there, all of them or none.

        Raises:
            OSError: it cannot be written.
        """
        if self.is_local:
            with write_atomically(Path(self.name)) as file:
                file.write(data)
            return
        system, path = self.opened()
        with system.open_output_stream(path) as file:  # an object appears when it is closed
            file.write(data)

    def make_folder(self) -> None:
        """Make the folder, unless it is there.

        Raises:
            OSError: it cannot be made.
        """
        system, path = self.opened()
        system.create_dir(path, recursive=True)

    def files(self, *, recursive: bool = False) -> Iterator[Place]:
        """The files of the folder, sorted by name; none if it is not there. Hidden ones are left out.

        Raises:
            InputError: it cannot be read.
        """
        system, root = self.opened()
        try:
            found = system.get_file_info(fs.FileSelector(root, allow_not_found=True, recursive=recursive))
        except OSError as error:
            raise InputError(f"{self.name} cannot be read: {one_line(error)}") from error
        for info in sorted(found, key=lambda info: str(info.path)):
            inside = os.path.relpath(info.path, root)
            if info.type == fs.FileType.File and not any(part.startswith(".") for part in inside.split(os.sep)):
                yield self / (inside if self.is_local else quote(inside))

    def _inside(self, file: Place) -> str:
        """The path of one of its files from here on."""
        inside = file.name.removeprefix(f"{self.name.rstrip('/')}/")
        return inside if self.is_local else unquote(inside)

    def _kind(self) -> Any:
        system, path = self.opened()
        try:
            return system.get_file_info(path).type
        except OSError as error:
            raise InputError(f"{self.name} cannot be reached: {one_line(error)}") from error

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder."""
        return bool(self._kind() == fs.FileType.Directory)

    @property
    def exists(self) -> bool:
        """Whether there is anything."""
        return bool(self._kind() != fs.FileType.NotFound)

    def matching(self) -> list[Place]:
        """The files that a name with `*`, `?` or `[...]` stands for; `**` stands for any folders."""
        parts = self.name.split("/")
        first = next(index for index, part in enumerate(parts) if set(part) & WILD)
        root = Place("/".join(parts[:first]) or ("/" if first else "."))
        pattern = "/".join(parts[first:])
        files = root.files(recursive="/" in pattern or "**" in pattern)
        return [file for file in files if _matches(root._inside(file).split("/"), pattern.split("/"))]


def _matches(names: list[str], patterns: list[str]) -> bool:
    """Whether a path, split at its slashes, is one that a pattern stands for."""
    if not patterns:
        return not names
    if patterns[0] == "**":
        return any(_matches(names[start:], patterns[1:]) for start in range(len(names) + 1))
    return bool(names) and fnmatch.fnmatchcase(names[0], patterns[0]) and _matches(names[1:], patterns[1:])


def parquet_bytes(table: pa.Table) -> bytes:
    """A table as a Parquet file."""
    sink = pa.BufferOutputStream()
    parquet.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue())
