"""The timing cache: what TensorRT measured in earlier builds, kept in files so that a rebuild takes seconds.

Every TensorRT and every GPU has a file of its own. Builds that run at the same time each add what they measured.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spd.bundle.plans import Target
from spd.cache_files import CacheFile

FORMAT = "spd-timing-cache"


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
        made_with = {
            "format": FORMAT,
            "tensorrt": target.tensorrt,
            "gpu": target.gpu,
            "compute_capability": target.compute_capability,
        }
        key = re.sub(r"[^A-Za-z0-9.]+", "_", f"{target.tensorrt} {target.gpu} {target.compute_capability}")
        self._file = None if folder is None else CacheFile(folder / f"timing_{key}.cache", made_with, "timing cache")
        self._data = b"" if self._file is None else self._file.read(say)

    def attach(self, config: Any) -> None:
        """Give the cache, or an empty one, to an `IBuilderConfig` before a build."""
        if self._file is None:
            return
        for data in dict.fromkeys((self._data, b"")):
            cache = config.create_timing_cache(data)
            if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
                return
            self._say(f"{self._file.path}: TensorRT refuses this timing cache; building without it")
        self._data = b""

    def keep(self, config: Any) -> None:
        """Write what TensorRT knows after a build; a file that cannot be written costs time, not the build."""
        if self._file is None:
            return
        path, cache = self._file.path, config.get_timing_cache()
        if cache is None or cache.serialize() is None:
            self._say(f"{path}: TensorRT gave back no timing cache; the next build will be as slow as this one")
            return
        try:
            with self._file.locked():
                self._write(self._file, config, cache)
        except OSError as error:
            self._say(f"{path}: the timing cache cannot be written ({error.strerror or error})")

    def _write(self, file: CacheFile, config: Any, cache: Any) -> None:
        """Write the cache, with what other builds have written since this one read the file."""
        others = file.read(lambda _: None)  # what is wrong with it was said when it was read first
        if others not in (b"", self._data):
            measured = config.create_timing_cache(others)
            if measured is None or not cache.combine(measured, ignore_mismatch=False):
                self._say(f"{file.path}: TensorRT does not take what another build measured; it is lost")
        self._data = bytes(cache.serialize())
        file.write(self._data)
