"""Stand-in for the used part of `cuda.core.graph`: capturing a stream and replaying what it did."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

from stand_ins.cuda_core import CUDAError, Stream, call, timeline_of
from stand_ins.machine import current
from stand_ins.timeline import Capture, Replay, Work

MODES = ("relaxed", "global", "thread_local")


@dataclass
class GraphCompleteOptions:
    """As in cuda.core."""

    auto_free_on_launch: bool = False
    upload_stream: Stream | None = None
    device_launch: bool = False
    use_node_priority: bool = False


class GraphBuilder:
    """Captures the work that is enqueued on its stream."""

    def __init__(self) -> None:
        raise NotImplementedError(
            "directly creating a GraphBuilder is not supported; use Stream.create_graph_builder()"
        )

    @classmethod
    def _make(cls, stream: Stream) -> GraphBuilder:
        builder = cls.__new__(cls)
        builder._captured, builder._work, builder._building, builder._closed = stream, None, False, False
        return builder

    _captured: Stream
    _work: list[Work] | None
    _building: bool
    _closed: bool

    @property
    def stream(self) -> Stream:
        """The stream that is captured."""
        return self._captured

    @property
    def is_building(self) -> bool:
        """Whether the capture is under way.

        Raises:
            RuntimeError: it is, and spoilt.
        """
        capture = timeline_of(self).capture
        if capture is not None and capture.broken is not None:
            raise RuntimeError(
                "Build process encountered an error and has been invalidated. Build process must now be ended."
            )
        return capture is not None

    @property
    def is_closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    def __cuda_stream__(self) -> tuple[int, int]:
        return self._captured.__cuda_stream__()

    @call
    def begin_building(self, mode: str | None = "relaxed") -> GraphBuilder:
        """Begin the capture."""
        if mode not in MODES:
            raise ValueError(f"Unsupported build mode: {mode}")
        timeline = timeline_of(self)
        if self._building or self._work is not None or timeline.capture is not None:
            raise CUDAError("CUDA_ERROR_ILLEGAL_STATE: the stream is being captured already, or this builder was used")
        timeline.capture = Capture(threading.get_ident(), mode)
        self._building = True
        current().counts.events["captures"] += 1
        return self

    @call
    def end_building(self) -> GraphBuilder:
        """End the capture, unless it is spoilt: that one stays under way until `close`."""
        if not self.is_building:
            raise RuntimeError("Graph builder is not building.")
        self._work = self._end()
        return self

    def _end(self) -> list[Work]:
        """As cuStreamEndCapture: whatever it says, the stream works as before."""
        timeline = timeline_of(self)
        capture, timeline.capture = timeline.capture, None
        if capture is None:
            raise CUDAError("CUDA_ERROR_ILLEGAL_STATE: the stream is not being captured")
        if current().faults.fires("capture"):
            capture.broken = "a planned fault"
        if capture.broken is not None:
            raise CUDAError(f"CUDA_ERROR_STREAM_CAPTURE_INVALIDATED: {capture.broken}")
        self._building = False
        return capture.work

    @call
    def complete(self, options: GraphCompleteOptions | None = None) -> Graph:
        """Make the graph that can be launched."""
        if self._work is None:
            raise RuntimeError("Graph has not finished building.")
        return Graph._make(Replay(current(), self._work))

    @call
    def close(self) -> None:
        """Destroy the builder. A capture that did not end is ended; if that fails, the builder stays as it is."""
        if self._building and not self._captured._closed:
            self._end()
        self._building, self._closed = False, True

    def __del__(self) -> None:
        if getattr(self, "_building", False):
            self._captured._timeline.capture = None


class Graph:
    """Captured work, launched as one."""

    def __init__(self) -> None:
        raise RuntimeError("directly constructing a Graph instance is not supported")

    @classmethod
    def _make(cls, replay: Replay) -> Graph:
        graph = cls.__new__(cls)
        graph._replay = replay
        graph._machine = current()
        graph._machine.counts.events["live_graphs"] += 1
        return graph

    _replay: Replay | None
    _machine: Any

    @property
    def is_closed(self) -> bool:
        """Whether it was closed."""
        return self._replay is None

    @call
    def upload(self, stream: Stream) -> None:
        """Prepare the first launch."""
        timeline_of(stream)

    @call
    def launch(self, stream: Stream) -> None:
        """Enqueue the whole graph on a stream."""
        machine = current()
        timeline = timeline_of(stream)
        if self._replay is None:
            raise CUDAError("CUDA_ERROR_INVALID_HANDLE: the graph is closed")
        if machine.faults.fires("launch"):
            raise CUDAError("CUDA_ERROR_LAUNCH_FAILED: a planned fault")
        machine.counts.events["launches"] += 1
        self._replay.launch(timeline)

    def close(self) -> None:
        """Destroy the graph."""
        if self._replay is not None:
            self._replay = None
            self._machine.counts.events["live_graphs"] -= 1

    def __del__(self) -> None:
        if getattr(self, "_replay", None) is not None:
            self.close()
