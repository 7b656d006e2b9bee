"""Device memory of scenes: one piece for each, that any lane fills and reads.

A piece that is given back stays for the next scene, up to `SPARES` of them. Nothing here waits for a lock, so that the
garbage collector may give back a scene in any thread and at any moment.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from spd.errors import CudaError
from spd.runtime.forks import Process
from spd.runtime.tensorrt.cuda import Gpu

SPARES = 2
"""Pieces that stay when no scene is in them: a loop over images, one ahead of the other, allocates nothing."""


class Encoding:
    """One run of the encoder: what is known of it on the host, and what tells its result from all others."""

    def __init__(self) -> None:
        self.finished = False
        """Whether the host has waited for it, so that its faults are known."""
        self.fault: str | None = None
        """What the host was told of it when it failed."""


class SceneMemory:
    """Room for the cache of one scene."""

    def __init__(self, gpu: Gpu, nbytes: int) -> None:
        """Take it from the GPU.

        Raises:
            DeviceMemoryError: there is no room.
        """
        self._gpu = gpu
        self.written = gpu.event()
        """After the last work that writes it. What reads, overwrites or frees it has to wait for this."""
        self.buffer = gpu.allocate(nbytes, "the cache of a scene")
        self.encoding = Encoding()
        """What is in it, or will be."""

    def close(self) -> None:
        """Free it, once it is written; nothing may be reading it."""
        self._gpu.free(self.buffer, self.written)
        self.written.close()


class SceneMemories:
    """All pieces of one model."""

    def __init__(self, gpu: Gpu, nbytes: int) -> None:
        """Begin with none; each will have `nbytes`."""
        self.process = Process()
        self._gpu, self._nbytes = gpu, nbytes
        self._all: set[SceneMemory] = set()
        self._spares: deque[SceneMemory] = deque()
        self._capturing: set[int] = set()
        """Threads in which nothing may be freed now."""

    def take(self) -> SceneMemory:
        """A piece for a new scene.

        Raises:
            DeviceMemoryError: there is no room.
        """
        try:
            memory = self._spares.pop()
        except IndexError:
            memory = SceneMemory(self._gpu, self._nbytes)
            self._all.add(memory)
        memory.encoding = Encoding()
        return memory

    def give_back(self, memory: SceneMemory) -> None:
        """Take a piece back that nothing reads any more; it may still be written."""
        if self.process.is_this and memory in self._all:
            self._spares.append(memory)
            self.trim(SPARES)

    def trim(self, keep: int = 0) -> None:
        """Free pieces that no scene is in, but for some."""
        while len(self._spares) > keep and threading.get_ident() not in self._capturing:
            with suppress(IndexError, CudaError):  # another thread was faster; a GPU that fails frees nothing
                memory = self._spares.popleft()
                self._all.discard(memory)
                self._gpu.use()
                memory.close()

    @contextmanager
    def capturing(self) -> Iterator[None]:
        """Free nothing in this thread for now: CUDA allows little to a thread that captures a graph."""
        self._capturing.add(threading.get_ident())
        try:
            yield
        finally:
            self._capturing.discard(threading.get_ident())
            self.trim(SPARES)

    def close(self) -> None:
        """Free everything; no lane may be running."""
        while self._all:
            with suppress(CudaError):
                self._all.pop().close()
        self._spares.clear()
