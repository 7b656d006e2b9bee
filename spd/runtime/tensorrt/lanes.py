"""The lanes of a model, and which call uses which: any lane serves any scene."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from spd.errors import CudaError, TensorRTError
from spd.runtime.tensorrt.cuda import Gpu, Graph, Stream
from spd.runtime.tensorrt.lane import Engines, Lane, Work
from spd.runtime.tensorrt.scenes import Encoding, SceneMemories

LANES = 2
"""Calls that overlap at most: one copies and launches while the other computes. Each costs scratch memory."""

logger = logging.getLogger("spd")


class Lanes:
    """One lane, and a second one when two calls overlap."""

    def __init__(self, gpu: Gpu, engines: Engines, scenes: SceneMemories, notes: list[str]) -> None:
        """Make the first lane.

        Raises:
            CudaError: there is no room, or a call failed.
            TensorRTError: a call failed.
        """
        self._gpu, self._engines, self._scenes, self._notes = gpu, engines, scenes, notes
        self._changed = threading.Condition()
        self._unmade = LANES - 1
        self._lanes = [Lane(gpu, engines, self._capture)]
        self.captured = self.not_captured = 0
        """CUDA graphs so far."""
        self._idle = list(self._lanes)
        """Least recently used first."""

    @contextmanager
    def use(self, encoding: Encoding | None = None) -> Iterator[Lane]:
        """A lane for one call, if possible one that holds an encoding.

        Raises:
            CudaError: a call failed.
        """
        lane = self._take(encoding)
        try:
            yield lane
        except BaseException:
            lane.drain()
            raise
        finally:
            with self._changed:
                self._idle.append(lane)
                self._changed.notify()

    def close(self) -> None:
        """Free everything; no call may be running."""
        for lane in self._lanes:
            lane.drain()
            lane.close()
        self._lanes.clear()
        self._idle.clear()

    def _take(self, encoding: Encoding | None) -> Lane:
        with self._changed:
            self._changed.wait_for(lambda: self._idle or self._unmade)
            if self._idle:
                lane = next((lane for lane in self._idle if lane.holds is encoding), self._idle[0])
                self._idle.remove(lane)
                return lane
            self._unmade -= 1
        try:
            lane = Lane(self._gpu, self._engines, self._capture)
        except (CudaError, TensorRTError) as error:
            self._note(f"calls from several threads wait for each other, a second lane was not made: {error}")
            return self._take(encoding)
        self._lanes.append(lane)
        return lane

    def _capture(self, stream: Stream, work: Work, what: str) -> Graph | None:
        try:
            with self._scenes.capturing():
                graph = stream.capture(work, what)
            with self._changed:
                self.captured += 1
            return graph
        except (CudaError, TensorRTError) as error:
            with self._changed:
                self.not_captured += 1
            self._note(f"no CUDA graph of {what}, its kernels are enqueued one by one: {error}")
            return None

    def _note(self, note: str) -> None:
        if note not in self._notes:
            logger.warning("%s", note)
            self._notes.append(note)
