"""The slots and lanes of a model: who gets which, what is kept for the next scene, and what is freed when.

A scene takes a slot and gives it back; a later scene takes it over with everything captured for it. `SPARE_SLOTS` are
kept for that; the memory of any more goes back to the pool.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from spd.errors import CudaError
from spd.runtime.forks import Process
from spd.runtime.tensorrt.cuda import Gpu, Graph
from spd.runtime.tensorrt.lanes import Engines, Lane, Program, Slot

LANES = 2
"""Calls that overlap at most: one copies and launches while the other computes. Each costs scratch memory."""
SPARE_SLOTS = 2
"""Slots that stay when no scene is in them: a loop over images, one ahead of the other, allocates nothing."""
PROGRAMS_PER_LANE = 64
"""Contexts and graphs that are kept per lane: 16 scenes in 4 buckets. The least recently used go first."""

logger = logging.getLogger("spd")


class Slots:
    """All slots and lanes of a model."""

    def __init__(self, gpu: Gpu, engines: Engines, notes: list[str]) -> None:
        """Make the first lane.

        Raises:
            CudaError: there is no room, or a call failed.
            TensorRTError: a call failed.
        """
        self._gpu = gpu
        self._engines = engines
        self._notes = notes
        self._graphs_work = True
        self._lock = threading.Lock()
        self._process = Process()
        self._numbers = itertools.count()
        self._all: set[Slot] = set()
        self._idle: list[Slot] = []
        self._returned: deque[Slot] = deque()
        self._lanes = [Lane(gpu, engines)]

    @property
    def count(self) -> int:
        """Slots that hold memory now, idle ones included."""
        return len(self._all)

    def take(self) -> Slot:
        """A slot for a new scene.

        Raises:
            CudaError: there is no room, or a call failed.
            TensorRTError: a call failed.
        """
        with self._locked():
            self._settle()
            if self._idle:
                return self._idle.pop()
            slot = Slot(next(self._numbers), self._roomy_lane(), self._gpu, self._engines)
            slot.lane.slots += 1
            self._all.add(slot)
            return slot

    def give_back(self, slot: Slot) -> None:
        """Take a slot back, from any thread, also out of the garbage collector: waits for nothing."""
        if not self._process.is_this:
            return
        self._returned.append(slot)
        self._reap()

    def program(self, slot: Slot, bucket: int) -> Program:
        """The program of a slot and a bucket; the slot's lane must be locked.

        Raises:
            CudaError: there is no room.
            TensorRTError: a call failed.
        """
        programs, key = slot.lane.programs, (slot.index, bucket)
        with self._locked():
            if key in programs:
                programs.move_to_end(key)
                return programs[key]
        program = Program(slot, bucket, self._engines.decoder)
        with self._locked():
            programs[key] = program
            oldest = programs.popitem(last=False)[1] if len(programs) > PROGRAMS_PER_LANE else None
        if oldest is not None:
            oldest.close()
        return program

    def capture(self, lane: Lane, enqueue: Callable[[], None], what: str) -> Graph | None:
        """The graph of `enqueue`; None from the first time on that a capture failed, which is noted."""
        if not self._graphs_work:
            return None
        try:
            with self._locked():  # nothing is freed meanwhile, which could end up in the graph or spoil it
                return lane.stream.capture(enqueue, what)
        except CudaError as error:
            self._graphs_work = False
            note = f"CUDA graphs are off, queries are enqueued one kernel at a time: {error}"
            logger.warning("%s", note)
            self._notes.append(note)
            return None

    def trim(self) -> None:
        """Free the slots that no scene is in."""
        if not self._process.is_this:
            return
        with self._locked():
            self._settle()
            while self._idle:
                self._free(self._idle.pop())

    def close(self) -> None:
        """Free everything; no call may be running."""
        if not self._process.is_this:
            return
        with suppress(CudaError):
            self._gpu.use()
        for lane in self._lanes:
            lane.drain()
        for slot in self._all:
            self._drop_programs(slot)
            slot.buffer.close()
        self._all.clear()
        for lane in self._lanes:
            lane.close()
        self._lanes.clear()
        self._gpu.close()

    def _roomy_lane(self) -> Lane:
        if len(self._lanes) < LANES and all(lane.slots for lane in self._lanes):
            self._lanes.append(Lane(self._gpu, self._engines))
        return min(self._lanes, key=lambda lane: lane.slots)

    def _settle(self) -> None:
        """Sort in what was given back; the lock is held."""
        while self._returned:
            slot = self._returned.popleft()
            if len(self._idle) < SPARE_SLOTS:
                self._idle.append(slot)
            else:
                self._free(slot)

    def _free(self, slot: Slot) -> None:
        self._gpu.use()
        self._drop_programs(slot)
        slot.buffer.close()
        slot.lane.slots -= 1
        self._all.discard(slot)

    def _drop_programs(self, slot: Slot) -> None:
        for key in [key for key in slot.lane.programs if key[0] == slot.index]:
            slot.lane.programs.pop(key).close()

    def _reap(self) -> None:
        """Settle unless somebody holds the lock; they do it when they let go."""
        while self._returned and self._lock.acquire(blocking=False):
            try:
                self._settle()
            finally:
                self._lock.release()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            with self._lock:
                yield
        finally:
            self._reap()
