"""The timing cache: what TensorRT measured in earlier builds, kept in a file so that a rebuild takes seconds.

TensorRT trusts a cache's bytes, so the file says in a first line of JSON which TensorRT and GPU made it and what its
sha256 is; a cache that is damaged or of another machine is dropped before TensorRT sees it.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spd.bundle.plans import Target
from spd.files import write_atomically

FORMAT = "spd-timing-cache"


def default_path() -> Path:
    """The user's cache folder: `spd-depth/timing.cache` under $XDG_CACHE_HOME, ~/.cache or %LOCALAPPDATA%."""
    variable, fallback = ("LOCALAPPDATA", "AppData/Local") if sys.platform == "win32" else ("XDG_CACHE_HOME", ".cache")
    folder = os.environ.get(variable)
    return (Path(folder) if folder else Path.home() / fallback) / "spd-depth" / "timing.cache"


class TimingCache:
    """A timing cache on disk, read once and written after every build."""

    def __init__(self, path: Path | None, target: Target, say: Callable[[str], None]) -> None:
        """Read the cache.

        Args:
            path: its file, which need not exist; None for no cache between builds.
            target: the machine at hand.
            say: is told, a line each, why a cache was discarded or could not be written.
        """
        self._path, self._say = path, say
        self._made_with = {"format": FORMAT, "tensorrt": target.tensorrt, "gpu": target.gpu}
        self._data = b"" if path is None else self._read(path)

    def attach(self, config: Any) -> None:
        """Give the cache, or an empty one, to an `IBuilderConfig` before a build."""
        if self._path is None:
            return
        for data in dict.fromkeys((self._data, b"")):
            cache = config.create_timing_cache(data)
            if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
                return
            self._say(f"{self._path}: TensorRT refuses this timing cache; building without it")
        self._data = b""

    def keep(self, config: Any) -> None:
        """Write what TensorRT knows after a build; a file that cannot be written costs time, not the build."""
        if self._path is None:
            return
        cache = config.get_timing_cache()
        memory = None if cache is None else cache.serialize()
        if memory is None:
            self._say(f"{self._path}: TensorRT gave back no timing cache; the next build will be as slow as this one")
            return
        self._data = bytes(memory)
        header = {**self._made_with, "sha256": hashlib.sha256(self._data).hexdigest()}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with write_atomically(self._path) as file:
                file.write(json.dumps(header).encode() + b"\n" + self._data)
        except OSError as error:
            self._say(f"{self._path}: the timing cache cannot be written ({error.strerror or error})")

    def _read(self, path: Path) -> bytes:
        """The cache in the file, or nothing."""
        try:
            first, _, data = path.read_bytes().partition(b"\n")
        except FileNotFoundError:
            return b""
        except OSError as error:
            self._say(f"{path}: the timing cache cannot be read ({error.strerror or error}); starting an empty one")
            return b""
        try:
            header = json.loads(first)
        except ValueError:
            header = None
        if not isinstance(header, dict) or header.get("sha256") != hashlib.sha256(data).hexdigest():
            self._say(f"{path}: discarded, this is no timing cache of spd-build or it is damaged")
            return b""
        for key, here in self._made_with.items():
            if header.get(key) != here:
                self._say(f"{path}: discarded, this timing cache was made with {key} {header.get(key)}, this is {here}")
                return b""
        return data
