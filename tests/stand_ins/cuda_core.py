"""Stand-in for the used part of `cuda.core`: devices, streams and events."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from stand_ins.machine import current
from stand_ins.memory import IllegalAddressError, OutOfMemoryError
from stand_ins.timeline import CaptureError, ExecutionError, Marker, Timeline

if TYPE_CHECKING:
    from stand_ins.cuda_graph import GraphBuilder
    from stand_ins.cuda_memory import Buffer, DeviceMemoryResource

_thread = threading.local()


class CUDAError(Exception):
    """What cuda.core raises when the driver reports an error."""


class ComputeCapability(NamedTuple):
    """As in `Device.compute_capability`."""

    major: int
    minor: int


class Handle:
    """A driver object such as a CUstream: it has an address and nothing else."""

    def __init__(self, address: int) -> None:
        self._address = address

    def __int__(self) -> int:
        return self._address


@contextmanager
def driver() -> Iterator[None]:
    """Run as a call of the driver: one at a time, with a current context, its failures as CUDAError."""
    machine = current()
    if getattr(_thread, "machine", None) is not machine:
        raise CUDAError("CUDA_ERROR_INVALID_CONTEXT: no context is current in this thread; call Device.set_current()")
    with machine.lock:
        try:
            yield
        except OutOfMemoryError as error:
            raise CUDAError(f"CUDA_ERROR_OUT_OF_MEMORY: {error}") from error
        except IllegalAddressError as error:
            raise CUDAError(f"CUDA_ERROR_INVALID_VALUE: {error}") from error
        except ExecutionError as error:
            raise CUDAError(f"CUDA_ERROR_ILLEGAL_ADDRESS: {error}") from error
        except CaptureError as error:
            raise CUDAError(f"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED: {error}") from error


def call(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a method a call of the driver."""

    @functools.wraps(function)
    def run(*arguments: Any, **options: Any) -> Any:
        with driver():
            return function(*arguments, **options)

    return run


@dataclass
class StreamOptions:
    """As in cuda.core."""

    nonblocking: Any = True
    priority: int | None = None


@dataclass
class EventOptions:
    """As in cuda.core."""

    timing_enabled: bool | None = False
    blocking_sync: bool | None = False
    ipc_enabled: bool | None = False


class Event:
    """A point in a stream's work."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError("Event objects cannot be instantiated directly. Please use Stream APIs (record).")

    @classmethod
    def _make(cls) -> Event:
        event = cls.__new__(cls)
        event._marker = None
        event._closed = False
        current().counts.events["events"] += 1
        return event

    _marker: Marker | None
    _closed: bool

    @call
    def sync(self) -> None:
        """Wait for the work before the event."""
        current().counts.events["synchronisations"] += 1
        self._check_open()
        if self._marker is not None and self._marker.work.stream is not None:
            self._marker.work.stream.run_until(self._marker.work)

    @property
    def is_done(self) -> bool:
        """Whether the work is done; asking lets it get done, so the next answer is yes."""
        with driver():
            if self._marker is None or self._marker.work.stream is None:
                return True
            done = self._marker.work.done
            self._marker.work.stream.run_until(self._marker.work)
            return done

    @property
    def is_closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    def close(self) -> None:
        """Destroy the event; what waits for it already still does."""
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise CUDAError("CUDA_ERROR_INVALID_HANDLE: the event is closed")


class Stream:
    """A queue of work; see `stand_ins.timeline`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError("Stream objects cannot be instantiated directly. Please use Device APIs (create_stream).")

    @classmethod
    def _make(cls, handle: int | None = None) -> Stream:
        stream = cls.__new__(cls)
        machine = current()
        stream._timeline = Timeline(machine, handle)
        stream._closed = False
        streams(machine)[stream._timeline.handle] = stream
        return stream

    @staticmethod
    def from_handle(handle: int) -> Stream:
        """A stream that somebody else made; 1 is the legacy default stream."""
        return Device(0).default_stream if handle == 1 else streams(current())[handle]

    _timeline: Timeline
    _closed: bool

    @property
    def handle(self) -> Handle:
        """The CUstream; `int()` of it is its address."""
        return Handle(0 if self._closed else self._timeline.handle)

    @property
    def is_closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    def __cuda_stream__(self) -> tuple[int, int]:
        return (0, int(self.handle))

    @property
    def device(self) -> Device:
        """The one device."""
        return Device(0)

    @call
    def sync(self) -> None:
        """Wait for all work."""
        current().counts.events["synchronisations"] += 1
        timeline_of(self).run_until()

    @call
    def record(self, event: Event | None = None, options: EventOptions | None = None) -> Event:
        """Mark this point in the stream's work."""
        event = Event._make() if event is None else event
        event._check_open()
        event._marker = timeline_of(self).record()
        return event

    @call
    def wait(self, event_or_stream: Event | Stream) -> None:
        """Let following work wait for an event or a stream."""
        if isinstance(event_or_stream, Event):
            event_or_stream._check_open()
            marker = event_or_stream._marker
        else:
            marker = timeline_of(event_or_stream).record()
        if marker is not None:
            timeline_of(self).wait(marker)

    def create_graph_builder(self) -> GraphBuilder:
        """A builder that captures this stream."""
        from stand_ins.cuda_graph import GraphBuilder  # each needs the other

        return GraphBuilder._make(self)

    def close(self) -> None:
        """Destroy the stream; what is in it still runs."""
        if not self._closed and self._timeline.handle:
            self._closed = True
            streams(self._timeline.machine).pop(self._timeline.handle, None)
            with self._timeline.machine.lock:
                self._timeline.run_until()


def streams(machine: Any) -> dict[int, Stream]:
    """Open streams by handle."""
    found: dict[int, Stream] = machine.__dict__.setdefault("streams", {})
    return found


def timeline_of(stream: Any) -> Timeline:
    """What is behind a stream or a graph builder.

    Raises:
        CUDAError: it is closed.
        TypeError: it is neither.
    """
    if hasattr(stream, "_captured"):
        stream = stream._captured
    if not isinstance(stream, Stream):
        raise TypeError(f"stream must be a Stream or a GraphBuilder, not {type(stream).__name__}")
    if stream._closed:
        raise CUDAError("CUDA_ERROR_INVALID_HANDLE: the stream is closed")
    return stream._timeline


class Device:
    """The one GPU; `set_current` is needed in every thread, as in cuda.core."""

    def __new__(cls, device_id: Device | int | None = None) -> Device:
        if int(device_id or 0) != 0:
            raise ValueError(f"device_id must be within [0, 1), got {device_id}")
        current()
        return super().__new__(cls)

    def __int__(self) -> int:
        return 0

    def set_current(self, ctx: None = None) -> None:
        """Make the GPU usable in this thread."""
        _thread.machine = current()

    @property
    def device_id(self) -> int:
        """Always 0."""
        return 0

    @property
    def name(self) -> str:
        """Name of the GPU."""
        return current().gpu

    @property
    def compute_capability(self) -> ComputeCapability:
        """Major and minor."""
        return ComputeCapability(*current().compute_capability)

    @property
    def default_stream(self) -> Stream:
        """The legacy default stream, whose handle is 0."""
        return streams(current()).get(0) or Stream._make(0)

    @property
    def memory_resource(self) -> DeviceMemoryResource:
        """The device's default pool."""
        from stand_ins.cuda_memory import DeviceMemoryResource  # each needs the other

        return DeviceMemoryResource(0)

    @call
    def create_stream(self, obj: None = None, options: StreamOptions | None = None) -> Stream:
        """A new stream."""
        return Stream._make()

    @call
    def create_event(self, options: EventOptions | None = None) -> Event:
        """A new event, not recorded."""
        return Event._make()

    @call
    def create_graph_builder(self) -> GraphBuilder:
        """A builder with a stream of its own."""
        return Stream._make().create_graph_builder()

    def allocate(self, size: int, *, stream: Stream | GraphBuilder) -> Buffer:
        """Device memory from the default pool."""
        return self.memory_resource.allocate(size, stream=stream)

    @call
    def sync(self) -> None:
        """Wait for all work on all streams."""
        current().counts.events["synchronisations"] += 1
        for stream in list(streams(current()).values()):
            stream._timeline.run_until()
