"""Stand-in for the used part of `cuda.core`: buffers and the resources they come from."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stand_ins.cuda_core import Device, Stream, call, driver, streams, timeline_of
from stand_ins.machine import Copy, Machine, current
from stand_ins.memory import host_view
from stand_ins.timeline import CaptureError, Timeline, Work

if TYPE_CHECKING:
    from stand_ins.cuda_graph import GraphBuilder


class Buffer:
    """A block of device or pinned memory, or of somebody else's."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError("Buffer objects cannot be instantiated directly. Please use MemoryResource APIs (allocate).")

    @classmethod
    def _make(cls, address: int, size: int, resource: MemoryResource | None, owner: Any, stream: Any) -> Buffer:
        buffer = cls.__new__(cls)
        buffer._address, buffer._size, buffer._resource, buffer._owner = address, size, resource, owner
        buffer._stream, buffer._machine, buffer._closed = stream, current(), False
        return buffer

    _address: int
    _size: int
    _resource: MemoryResource | None
    _owner: Any
    _stream: Any
    _machine: Machine
    _closed: bool

    @staticmethod
    def from_handle(
        ptr: int,
        size: int,
        mr: MemoryResource | None = None,
        owner: object | None = None,
        *,
        stream: Stream | GraphBuilder | None = None,
    ) -> Buffer:
        """Wrap memory at an address; with `mr` the buffer owns it, with `owner` it keeps that alive."""
        if mr is not None and owner is not None:
            raise ValueError("owner and memory resource cannot be both specified together")
        return Buffer._make(int(ptr), size, mr, owner, stream)

    @property
    def handle(self) -> int:
        """The address; 0 once closed."""
        return 0 if self._closed else self._address

    @property
    def size(self) -> int:
        """Bytes; 0 once closed."""
        return 0 if self._closed else self._size

    @property
    def is_closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    @property
    def memory_resource(self) -> MemoryResource | None:
        """Where it came from."""
        return self._resource

    @property
    def is_device_accessible(self) -> bool:
        """Whether kernels can use it."""
        return self._resource is not None

    @property
    def is_host_accessible(self) -> bool:
        """Whether the CPU can use it."""
        return self._resource is None or self._resource.is_host_accessible

    def copy_to(self, dst: Buffer | None = None, *, stream: Stream | GraphBuilder, options: None = None) -> Buffer:
        """Copy all of this buffer to one of the same size, or to a new one."""
        if dst is None:
            assert self._resource is not None
            dst = self._resource.allocate(self.size, stream=stream)
        dst.copy_from(self, stream=stream, options=options)
        return dst

    @call
    def copy_from(self, src: Buffer, *, stream: Stream | GraphBuilder, options: None = None) -> None:
        """Copy all of a buffer of the same size into this one."""
        if src.size != self.size:
            raise ValueError(f"buffer sizes mismatch between src and dst (sizes are: src={src.size}, dst={self.size})")
        copy(self.handle, src.handle, self.size, timeline_of(stream))

    @call
    def fill(self, value: int | bytes, *, stream: Stream | GraphBuilder) -> None:
        """Fill with a byte, or a pattern of 1, 2 or 4 bytes."""
        pattern = bytes([value]) if isinstance(value, int) else bytes(value)
        if len(pattern) not in (1, 2, 4) or self.size % len(pattern):
            raise ValueError(f"a pattern of {len(pattern)} bytes does not fill {self.size} bytes")
        address, size = self.handle, self.size

        def run() -> None:
            data = np.frombuffer(pattern * (size // len(pattern)), np.uint8)
            _bytes(current(), address, size)[:] = data

        timeline_of(stream).enqueue(Work("fill", run, writes=[(address, size)]))

    def close(self, stream: Stream | GraphBuilder | None = None) -> None:
        """Free the memory in the order of a stream; closing again does nothing."""
        if self._closed:
            return
        self._closed = True
        if self._resource is not None and self._size:
            target = self._stream if stream is None else stream
            self._resource._free(self._machine, self._address, self._size, target)

    def __enter__(self) -> Buffer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            self.close()

    def __dlpack__(self, **options: Any) -> object:
        if not self.is_host_accessible:
            raise BufferError("device memory cannot be read on the host")
        view: NDArray[np.int8] = _bytes(self._machine, self.handle, self.size).view(np.int8)
        return view.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        if self.is_host_accessible:
            return (1, 0) if self._resource is None else (3, 0)
        return (2, 0)


def copy(target: int, source: int, size: int, timeline: Timeline) -> None:
    """Enqueue a copy between any two addresses."""
    machine = timeline.machine
    kind = f"{_side(machine, source, size)}-to-{_side(machine, target, size)}"

    def run() -> None:
        machine.counts.copies.append(Copy(kind, size))
        _bytes(machine, target, size)[:] = _bytes(machine, source, size)

    timeline.enqueue(Work(f"{kind} copy", run, [(source, size)], [(target, size)]))


def _side(machine: Machine, address: int, size: int) -> str:
    allocation = machine.memory.find(address, size)
    return "host" if allocation is None or allocation.kind == "pinned" else "device"


def _bytes(machine: Machine, address: int, size: int) -> NDArray[np.uint8]:
    if machine.memory.find(address, size) is None:
        return host_view(address, size)
    return machine.memory.view(address, size)


class MemoryResource:
    """What buffers come from."""

    _kind = "device"
    is_host_accessible = False
    is_device_accessible = True

    def allocate(self, size: int, *, stream: Stream | GraphBuilder) -> Buffer:
        """A new buffer; refused in a thread that is capturing a graph."""
        with driver():
            timeline_of(stream)
            return self._allocate(size, stream)

    def deallocate(self, ptr: int, size: int, *, stream: Stream | GraphBuilder) -> None:
        """Free what was taken without a buffer."""
        with driver():
            self._free(current(), ptr, size, stream)

    def _allocate(self, size: int, stream: Any) -> Buffer:
        machine = current()
        for other in streams(machine).values():
            capture = other._timeline.capture
            if capture is not None and capture.thread == threading.get_ident():
                capture.broken = "memory was allocated"
                raise CaptureError("memory cannot be allocated while a graph is captured")
        address = machine.memory.allocate(size, self._kind).address if size else 0
        return Buffer._make(address, size, self, None, stream)

    def _free(self, machine: Machine, address: int, size: int, stream: Any) -> None:
        with machine.lock:
            allocation = machine.memory.usable(address, size)
            assert allocation is not None
            stream = getattr(stream, "_captured", stream)
            if isinstance(stream, Stream) and not stream._closed:
                # What was enqueued before still finds the bytes, what comes later finds it freed.
                free = Work("free", lambda: machine.memory.poison(allocation), writes=[(address, size)])
                stream._timeline.enqueue(free)
            elif allocation.pending:
                machine.violate(f"{self._kind} memory is freed while {', '.join(allocation.pending)} still uses it")
            machine.memory.free(allocation)


@dataclass
class DeviceMemoryResourceOptions:
    """As in cuda.core."""

    ipc_enabled: bool = False
    max_size: int = 0


@dataclass
class PinnedMemoryResourceOptions:
    """As in cuda.core."""

    ipc_enabled: bool = False
    max_size: int = 0
    numa_id: int | None = None


class DeviceMemoryResource(MemoryResource):
    """A pool of device memory."""

    def __init__(self, device_id: Device | int, options: DeviceMemoryResourceOptions | None = None) -> None:
        self._device_id = int(device_id)

    @property
    def device_id(self) -> int:
        """The device it is on."""
        return self._device_id

    def close(self) -> None:
        """Release the pool; buffers keep theirs."""


class PinnedMemoryResource(MemoryResource):
    """A pool of pinned host memory."""

    _kind = "pinned"
    is_host_accessible = True

    def __init__(self, options: PinnedMemoryResourceOptions | None = None) -> None:
        self._options = options

    def close(self) -> None:
        """Release the pool; buffers keep theirs."""


class LegacyPinnedMemoryResource(MemoryResource):
    """Pinned host memory by cuMemAllocHost, without streams."""

    _kind = "pinned"
    is_host_accessible = True

    def allocate(self, size: int, *, stream: Stream | GraphBuilder | None = None) -> Buffer:
        """A new buffer."""
        with driver():
            return self._allocate(size, None)

    def deallocate(self, ptr: int, size: int, *, stream: Stream | GraphBuilder | None = None) -> None:
        """Free what was taken without a buffer."""
        with driver():
            self._free(current(), ptr, size, None)

    def _free(self, machine: Machine, address: int, size: int, stream: Any) -> None:
        if stream is not None:
            timeline_of(stream).run_until()
        super()._free(machine, address, size, None)
