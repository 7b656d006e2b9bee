"""Which scenes have their cache on the device: all of them, or as many as a memory budget allows."""

from __future__ import annotations

import itertools
import re
import threading
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spd.errors import InputError, SPDError
from spd.runtime.arrays import GpuArray
from spd.runtime.backend import Backend
from spd.runtime.forks import Process, keep_in_forks

_UNITS = {"": 1, "B": 1} | {
    prefix + unit: base ** (power + 1)
    for unit, base in (("B", 1000), ("iB", 1024))
    for power, prefix in enumerate("KMGT")
}


def parse_bytes(size: int | str) -> int:
    """Bytes of a size such as `2GiB`, `500 MB` or a plain number; KB is 1000 bytes, KiB 1024.

    Raises:
        InputError: it is not a size.
    """
    match = re.fullmatch(r"\s*([0-9]{1,32}(?:\.[0-9]{1,32})?)\s*([A-Za-z]*)\s*", str(size))
    unit = next((factor for name, factor in _UNITS.items() if match and name.lower() == match[2].lower()), None)
    if match is None or unit is None or isinstance(size, bool):
        raise InputError(f"{size!r} is not a size; expected bytes or a size such as 2GiB or 500MB")
    return int(Fraction(match[1]) * unit)


class Resident:
    """One scene's cache, on the device or ready to be computed again."""

    def __init__(self, image: NDArray[np.uint8] | None) -> None:
        self.image = image
        """uint8 [1, height, width, 3] if the cache may be evicted; stays on the host."""
        self.cache: Any = None
        self.busy = False
        """Whether its cache is being computed."""
        self.users = 0
        self.last_used = 0
        self.closed = False


class Residency:
    """Encodes scenes and keeps their caches, with a budget the most recently used ones.

    Calls may come from several threads. A cache that is in use is not evicted: whoever needs room waits. An evicted
    scene is encoded again when it is next asked, from its image in the graph's size, which is kept on the host.
    """

    def __init__(self, backend: Backend, budget: int | None) -> None:
        """Begin with no scenes.

        Args:
            backend: what encodes.
            budget: bytes on the device for caches; None for no limit.

        Raises:
            InputError: not even one cache fits in the budget, or the backend cannot say how large one is.
        """
        self.backend = backend
        self.process = Process()
        """Where its scenes may be encoded and queried."""
        self._limit: int | None = None
        if budget is not None:
            if backend.cache_bytes is None:
                raise InputError(f"the {backend.name} backend keeps no cache_budget; leave it out")
            self._limit = budget // backend.cache_bytes
            if self._limit == 0:
                raise InputError(
                    f"cache_budget is {budget} bytes, but the cache of one scene takes {backend.cache_bytes} on "
                    f"{backend.name} in {backend.precision}; give at least that"
                )
        self._lock = threading.RLock()  # the garbage collector may come back in
        self._changed = threading.Condition(self._lock)
        self._clock = itertools.count(1)
        self._occupants: set[Resident] = set()
        """Scenes whose cache is on the device or being computed."""
        self.encodings = 0
        """Times that an image was encoded; more than there were scenes if some were evicted and asked again."""
        self.evictions = 0
        """Times that a cache was given up for another one."""
        keep_in_forks(self)

    @property
    def keeps_images(self) -> bool:
        """Whether images are kept on the host, to be encoded again."""
        return self._limit is not None

    @property
    def resident_scenes(self) -> int:
        """Scenes whose cache is on the device or being computed."""
        return len(self._occupants)

    def add(self, image: NDArray[np.uint8] | GpuArray) -> Resident:
        """Encode an image, uint8 [1, height, width, 3], or on a GPU [height, width, 3]. The caller may change it later.

        Only where `keeps_images` is False and the backend takes it may it be on a GPU.
        """
        resident = Resident(None)
        if self.keeps_images:
            assert isinstance(image, np.ndarray)
            resident.image = image = image.copy()
        try:
            self._fill(resident, image)
        except BaseException:
            self.remove(resident)
            raise
        return resident

    def enter(self, resident: Resident) -> Any:
        """The cache of a scene, computed again if it was evicted; it stays until `leave` is called.

        Raises:
            SPDError: the scene was closed.
        """
        while True:
            with self._lock:
                if resident.busy:
                    self._changed.wait_for(lambda: not resident.busy)
                if resident.closed:
                    raise SPDError("the scene is closed; encode the image again")
                if resident.cache is not None:
                    resident.users += 1
                    resident.last_used = next(self._clock)
                    return resident.cache
            assert resident.image is not None
            self._fill(resident, resident.image)

    def leave(self, resident: Resident) -> None:
        """End what `enter` began."""
        with self._lock:
            resident.users -= 1
            if resident.closed:
                self._drop(resident)
            if self._limit is not None:  # somebody may wait for room
                self._changed.notify_all()

    def remove(self, resident: Resident) -> None:
        """Give up a scene; a call that is using its cache keeps it until it ends."""
        if not self.process.is_this:
            return  # a thread that is not here may hold the lock
        with self._lock:
            resident.closed = True
            self._drop(resident)
            self._changed.notify_all()

    def unforkable(self) -> list[Any]:
        """The backend and the caches, which a forked process must not free."""
        return [self.backend, *(resident.cache for resident in list(self._occupants))]

    def _fill(self, resident: Resident, image: NDArray[np.uint8] | GpuArray) -> None:
        """Compute the cache, unless another thread does."""
        with self._lock:
            self._changed.wait_for(lambda: resident.busy or resident.cache is not None or self._make_room())
            if resident.busy or resident.cache is not None or resident.closed:
                return
            resident.busy = True
            self._occupants.add(resident)
        try:
            resident.cache = self.backend.encode(image)
        finally:
            with self._lock:
                resident.busy = False
                self.encodings += resident.cache is not None
                resident.last_used = next(self._clock)
                if resident.cache is None or resident.closed:
                    self._drop(resident)
                self._changed.notify_all()

    def _make_room(self) -> bool:
        """Evict until another cache fits, if there is something to evict."""
        if self._limit is None:
            return True
        idle = [resident for resident in list(self._occupants) if not resident.busy and not resident.users]
        idle.sort(key=lambda resident: resident.last_used)
        for victim in idle[: max(len(self._occupants) - self._limit + 1, 0)]:
            self._drop(victim)
            self.evictions += 1
        return len(self._occupants) < self._limit

    def _drop(self, resident: Resident) -> None:
        """Give up a cache unless it is in use or on its way; then whoever ends that does it."""
        if resident.users == 0 and not resident.busy:
            self._occupants.discard(resident)
            cache, resident.cache = resident.cache, None
            if cache is not None:
                self.backend.release(cache)
