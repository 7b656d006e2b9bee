"""The timing cache: what TensorRT measured in earlier builds, kept in files so that a rebuild takes seconds.

Every TensorRT and every GPU has a file of its own. Builds that run at the same time each add what they measured.
TensorRT trusts a cache's bytes, so the file says in a first line of JSON which TensorRT and GPU made it and what its
sha256 is; a cache that is damaged or of another machine is dropped before TensorRT sees it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock
from platformdirs import user_cache_path

from spd.bundle.plans import Target
from spd.files import write_atomically

FORMAT = "spd-timing-cache"

LOCK_SECONDS = 60.0
"""Longest wait for another build that is writing, which takes milliseconds."""


def default_folder() -> Path:
    """The user's cache folder, where the system has it; on Linux $XDG_CACHE_HOME/spd-depth or ~/.cache/spd-depth."""
    return user_cache_path("spd-depth", appauthor=False)


class TimingCache:
    """A timing cache on disk, read once, and added to after every build."""

    def __init__(self, folder: Path | None, target: Target, say: Callable[[str], None]) -> None:
        """Read the cache.

        Args:
            folder: where the files are, which need not exist; None for no cache between builds.
            target: the machine at hand.
            say: is told, a line each, why a cache was discarded or could not be written.
        """
        self._say = say
        self._made_with = {
            "format": FORMAT,
            "tensorrt": target.tensorrt,
            "gpu": target.gpu,
            "compute_capability": target.compute_capability,
        }
        key = re.sub(r"[^A-Za-z0-9.]+", "_", f"{target.tensorrt} {target.gpu} {target.compute_capability}")
        self._path = None if folder is None else folder / f"timing_{key}.cache"
        self._data = b"" if self._path is None else self._read(self._path, say)

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
        if cache is None or cache.serialize() is None:
            self._say(f"{self._path}: TensorRT gave back no timing cache; the next build will be as slow as this one")
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{self._path}.lock", timeout=LOCK_SECONDS):
                self._write(self._path, config, cache)
        except OSError as error:
            self._say(f"{self._path}: the timing cache cannot be written ({error.strerror or error})")

    def _write(self, path: Path, config: Any, cache: Any) -> None:
        """Write the cache, with what other builds have written since this one read the file."""
        others = self._read(path, lambda _: None)  # what is wrong with it was said when it was read first
        if others not in (b"", self._data):
            measured = config.create_timing_cache(others)
            if measured is None or not cache.combine(measured, ignore_mismatch=False):
                self._say(f"{path}: TensorRT does not take what another build measured; it is lost")
        self._data = bytes(cache.serialize())
        header = {**self._made_with, "sha256": hashlib.sha256(self._data).hexdigest()}
        with write_atomically(path) as file:
            file.write(json.dumps(header).encode() + b"\n" + self._data)

    def _read(self, path: Path, say: Callable[[str], None]) -> bytes:
        """The cache in the file, or nothing."""
        try:
            first, _, data = path.read_bytes().partition(b"\n")
        except FileNotFoundError:
            return b""
        except OSError as error:
            say(f"{path}: the timing cache cannot be read ({error.strerror or error}); starting an empty one")
            return b""
        try:
            header = json.loads(first)
        except ValueError:
            header = None
        if not isinstance(header, dict) or header.pop("sha256", None) != hashlib.sha256(data).hexdigest():
            say(f"{path}: discarded, this is no timing cache of spd-build or it is damaged")
            return b""
        if header != self._made_with:
            say(f"{path}: discarded, this timing cache was made by another TensorRT or on another GPU")
            return b""
        return data
