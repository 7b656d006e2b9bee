"""Backends on a CPU: each thread decodes tiles of the points by itself.

Products of a few rows for each point share out badly among threads; points do well.
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spd.errors import BackendError, one_line
from spd.runtime.backend import Backend

TILE = 8, 64
"""Fewest and most points of a tile. The local tokens of 64 points take 4.5 MB, which stay in cache; a tile of fewer
than 8 is not worth handing over."""


class TiledBackend(Backend):
    """Shares out the points of a call among threads of its own, which end with the last reference to it."""

    at_once: int
    """Runs of the decoder that one call has going at once, each on a thread of its own; 1 if a run has all threads."""

    def start_tilers(self, at_once: int) -> None:
        """Make the threads, which are started as they are needed."""
        self.at_once = at_once
        self._tilers = ThreadPoolExecutor(at_once, thread_name_prefix="spd-decode") if at_once > 1 else None

    def decode(self, cache: Any, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """As in `Backend`."""
        parts = self.tiles(points)
        if len(parts) == 1:
            return self.decode_tile(cache, points)
        if self._tilers is None:
            return np.concatenate([self.decode_tile(cache, part) for part in parts], axis=1)
        try:
            depths = self._tilers.map(lambda part: self.decode_tile(cache, part), parts)
        except RuntimeError as error:  # the pool starts its threads as it needs them
            raise self._too_many_threads(self.at_once, error) from error
        return np.concatenate(list(depths), axis=1)

    def tiles(self, points: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Points [1, K, 2] in the parts that runs of the decoder take."""
        sizes = self.tile_sizes(points.shape[1])
        return [np.ascontiguousarray(part) for part in np.split(points, np.cumsum(sizes[:-1]), axis=1)]

    def tile_sizes(self, count: int) -> list[int]:
        """How many of `count` points each tile has.

        Every thread gets as many tiles as the others, all but the last of one size: three of 64 points would leave one
        of two threads waiting.
        """
        if self.at_once == 1:
            return [count]
        (least, most), each = TILE, -(-count // self.at_once)
        tile = max(least, -(-each // -(-each // most)))
        return [min(tile, count - start) for start in range(0, count, tile)]

    @abstractmethod
    def decode_tile(self, cache: Any, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """Depths of one tile, as `decode`; may be called from several threads at once."""

    def check_threads(self, threads: int, pools: int) -> None:
        """Start as many threads as `pools` pools of `threads` take, for a moment; one thread needs no pool.

        A runtime hangs or ends the process where it can start the first of its threads but not all of them.

        Raises:
            BackendError: they cannot be started.
        """
        done, started = threading.Event(), list[threading.Thread]()
        try:
            for _ in range(pools * threads if threads > 1 else 0):
                thread = threading.Thread(target=done.wait)
                thread.start()
                started.append(thread)
        except RuntimeError as error:
            raise self._too_many_threads(threads, error) from error
        finally:
            done.set()
            for thread in started:
                thread.join()

    def _too_many_threads(self, threads: int, error: RuntimeError) -> BackendError:
        return BackendError(
            f"{self.name} cannot start its {threads} threads: {one_line(error)}; load with fewer, such as threads=1, "
            "or raise the limit of processes (ulimit -u)"
        )
