"""CUDA as the TensorRT runtime uses it: one GPU, its streams, events, memory and graphs. The only user of cuda-core.

Every call is checked: a failure is a `CudaError` that names the call and what it was for. Memory comes from a pool of
SPD's own, so that closing it gives everything back whatever else uses the GPU, and every buffer is counted.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from spd.bundle.plans import Target
from spd.errors import BackendError, CudaError, DeviceMemoryError, SPDError, one_line
from spd.runtime import devices
from spd.runtime.arrays import GpuArray
from spd.runtime.packages import import_cuda
from spd.runtime.tensorrt.library import TENSORRT, Library

AFTER_SYNC = "; if it goes on, start the process again"
"""What to do when work on the GPU failed: most such failures stay until the process ends."""


class Gpu:
    """The GPU, with a memory pool and a count of what was taken from it."""

    def __init__(self, device: int = 0) -> None:
        """Open the GPU of a number, as CUDA_VISIBLE_DEVICES numbers them.

        Raises:
            BackendError: cuda-core is missing, or there is no such GPU that it can use.
        """
        self._number = device
        self._core = import_cuda("cuda.core")
        self._runtime = import_cuda("cuda.bindings.runtime")
        try:
            self._core.Device(device).set_current()
            options = self._core.DeviceMemoryResourceOptions()
            self._pool = self._core.DeviceMemoryResource(self._core.Device(device), options)
            self._pinned = self._core.LegacyPinnedMemoryResource()
            # Memory is taken and given back in a stream of its own: in another, it could end up in a captured graph.
            self._memory_stream = self._core.Device(device).create_stream()
        except Exception as error:  # cuda-core's errors share no public base class
            raise BackendError(f"no GPU can be used: {devices.cuda_missing() or one_line(error)}") from error
        self._live: dict[int, int] = {}
        self._count = itertools.count()
        self.allocations = 0
        """Allocations so far, device and pinned; steady when nothing is allocated."""

    @property
    def live_bytes(self) -> int:
        """Bytes that are allocated now, device and pinned."""
        return sum(list(self._live.values()))

    @property
    def free_bytes(self) -> int:
        """Bytes that are free on the GPU, whoever uses the rest."""
        status, free, _ = self._runtime.cudaMemGetInfo()
        return int(free) if int(status) == 0 else 0

    def use(self) -> None:
        """Make the GPU the calling thread's; CUDA keeps that per thread.

        Raises:
            CudaError: it cannot be used any more.
        """
        with _checked("set_current", f"GPU {self._number}"):
            self._core.Device(self._number).set_current()

    def stream(self) -> Stream:
        """A new stream that does not wait for the default one."""
        with _checked("create_stream", "a lane"):
            return Stream(self._core.Device(self._number).create_stream(), self._core)

    def event(self) -> Event:
        """A new event; until it is recorded, nothing waits for it."""
        with _checked("create_event", "a lane or scene"):
            return Event(self._core.Device(self._number).create_event())

    def allocate(self, nbytes: int, what: str) -> DeviceBuffer:
        """Memory on the GPU, aligned to 256 bytes as TensorRT asks; `what` names it in messages.

        Raises:
            DeviceMemoryError: there is no room.
        """
        try:
            buffer = self._pool.allocate(max(nbytes, 1), stream=self._memory_stream)
            self._memory_stream.sync()
        except Exception as error:
            raise self._full("GPU", nbytes, what, error) from error
        return DeviceBuffer(self._counted(buffer), what, self._forget)

    def pinned(self, shape: tuple[int, ...], dtype: DTypeLike, what: str) -> PinnedArray:
        """Page-locked host memory, which copies run to and from at full speed and asynchronously.

        Raises:
            DeviceMemoryError: there is no room.
        """
        nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        try:
            buffer = self._pinned.allocate(max(nbytes, 1))
        except Exception as error:
            raise self._full("pinned host", nbytes, what, error) from error
        return PinnedArray(self._counted(buffer), what, self._forget, shape, dtype)

    def free(self, buffer: DeviceBuffer, after: Event) -> None:
        """Give device memory back when the work before an event is done. The host does not wait.

        Raises:
            CudaError: a call failed.
        """
        with _checked("wait", f"freeing {buffer.what}"):
            self._memory_stream.wait(after._event)
        buffer.close()

    def close(self) -> None:
        """Give the pool back; buffers must be closed."""
        with suppress(Exception):  # the process may be past using CUDA
            self.use()
            self._memory_stream.sync()
            self._pool.close()
            self._memory_stream.close()

    def _counted(self, buffer: Any) -> Any:
        self.allocations = next(self._count) + 1
        self._live[int(buffer.handle)] = int(buffer.size)
        return buffer

    def _forget(self, address: int) -> None:
        self._live.pop(address, None)

    def _full(self, place: str, nbytes: int, what: str, error: Exception) -> DeviceMemoryError:
        return DeviceMemoryError(
            f"allocate failed for {what}: wanted {_mib(nbytes)} of {place} memory, {_mib(self.free_bytes)} are free on "
            f"the GPU and SPD holds {_mib(self.live_bytes)} ({one_line(error)}); close scenes or give a cache_budget"
        )


class Stream:
    """Work in one stream runs in order; work in two may overlap."""

    def __init__(self, stream: Any, core: Any) -> None:
        self._stream, self._core = stream, core
        self.handle = int(stream.handle)
        """What TensorRT takes."""

    def copy(self, source: DeviceBuffer, target: DeviceBuffer) -> None:
        """Copy all of a buffer to one of the same size, on the GPU or between it and pinned memory.

        Raises:
            CudaError: the copy is refused.
        """
        assert source.nbytes == target.nbytes
        with _checked("copy_from", target.what):
            target.buffer.copy_from(source.buffer, stream=self._stream)

    def copy_array(self, array: GpuArray, target: DeviceBuffer) -> None:
        """Copy another library's array, after the work that is in its stream now and before what comes into that later.

        Raises:
            CudaError: a call is refused.
        """
        assert array.nbytes == target.nbytes
        with _checked("copy_from", f"{target.what} from an array on the GPU"):
            other = self._core.Stream.from_handle(array.stream)
            self._stream.wait(other)
            source = self._core.Buffer.from_handle(array.address, array.nbytes, owner=array.owner)
            target.buffer.copy_from(source, stream=self._stream)
            other.wait(self._stream)

    def record(self, event: Event) -> None:
        """Let an event stand for everything that is in this stream now.

        Raises:
            CudaError: it is refused.
        """
        with _checked("record", "an event"):
            self._stream.record(event._event)

    def wait(self, event: Event) -> None:
        """Let what comes into this stream from now on wait for an event. The host does not wait.

        Raises:
            CudaError: it is refused.
        """
        with _checked("wait", "an event"):
            self._stream.wait(event._event)

    def sync(self, what: str) -> None:
        """Wait for everything in the stream; errors of the work itself come up here.

        Raises:
            CudaError: something in the stream failed.
        """
        with _checked("sync", f"{what}{AFTER_SYNC}"):
            self._stream.sync()

    def capture(self, enqueue: Callable[[], None], what: str) -> Graph:
        """Record what `enqueue` puts into this stream, without running it.

        Raises:
            CudaError: it cannot be recorded; the stream is usable all the same.
            SPDError: what `enqueue` raises.
        """
        builder = None
        try:
            builder = self._stream.create_graph_builder()
            # thread_local: other threads may allocate meanwhile.
            builder.begin_building("thread_local")
            enqueue()
            builder.end_building()
            return Graph(builder.complete(), what)
        except SPDError:
            raise
        except Exception as error:
            raise _failed("graph capture", what, error) from error
        finally:
            if builder is not None:
                # It ends a capture that is still under way, and says of a spoilt one once more that it is spoilt.
                with suppress(Exception):
                    builder.close()

    def close(self) -> None:
        """Destroy the stream."""
        self._stream.close()


class Event:
    """A point in the work of a stream."""

    def __init__(self, event: Any) -> None:
        self._event = event

    def sync(self, what: str) -> None:
        """Wait on the host for the work before it; errors of the work itself come up here.

        Raises:
            CudaError: something in the stream failed.
        """
        with _checked("sync", f"{what}{AFTER_SYNC}"):
            self._event.sync()

    def close(self) -> None:
        """Destroy the event; what waits for it still does."""
        self._event.close()


class Graph:
    """A captured graph, which is one launch for the CPU."""

    def __init__(self, graph: Any, what: str) -> None:
        self._graph = graph
        self._what = what

    def launch(self, stream: Stream) -> None:
        """Run it in a stream.

        Raises:
            CudaError: the launch failed.
        """
        with _checked("graph launch", self._what):
            self._graph.launch(stream._stream)

    def close(self) -> None:
        """Destroy the graph."""
        self._graph.close()


class DeviceBuffer:
    """Bytes on the GPU, until closed."""

    def __init__(self, buffer: Any, what: str, forget: Callable[[int], None]) -> None:
        self.buffer = buffer
        self.what = what
        """What it is for, in messages."""
        self.address = int(buffer.handle)
        self.nbytes = int(buffer.size)
        self._forget = forget

    def close(self) -> None:
        """Give the bytes back; nothing may be using them."""
        self._forget(self.address)
        self.buffer.close()


class PinnedArray(DeviceBuffer):
    """A numpy array in page-locked memory, until closed."""

    def __init__(
        self, buffer: Any, what: str, forget: Callable[[int], None], shape: tuple[int, ...], dtype: DTypeLike
    ) -> None:
        super().__init__(buffer, what, forget)
        raw = np.ctypeslib.as_array((ctypes.c_uint8 * self.nbytes).from_address(self.address))
        self.array: NDArray[Any] = raw.view(dtype).reshape(shape)


def current_target(library: Library = TENSORRT, number: int = 0) -> Target:
    """The machine at hand with the GPU of a number, as plans of a library name it.

    Raises:
        BackendError: the library or CUDA is missing, or there is no GPU.
    """
    trt, core, runtime = library.module(), import_cuda("cuda.core"), import_cuda("cuda.bindings.runtime")
    try:
        device = core.Device(number)
        device.set_current()
        major, minor = device.compute_capability
        name = str(device.name)
    except Exception as error:
        raise BackendError(f"no GPU can be used: {devices.cuda_missing() or one_line(error)}") from error
    cuda, driver = _version(*runtime.cudaRuntimeGetVersion()), _version(*runtime.cudaDriverGetVersion())
    return Target(trt.__version__, cuda, driver, name, f"{major}.{minor}")


def _version(status: Any, number: int) -> str:
    if int(status) != 0:
        raise CudaError(f"the CUDA version cannot be read: {status!r}")
    return f"{number // 1000}.{number % 1000 // 10}"


@contextmanager
def _checked(call: str, what: str) -> Iterator[None]:
    """Turn what cuda-core raises into an error that names the call and what it was for."""
    try:
        yield
    except Exception as error:
        raise _failed(call, what, error) from error


def _failed(call: str, what: str, error: Exception) -> CudaError:
    return CudaError(f"CUDA {call} failed for {what}: {one_line(error)}")


def _mib(nbytes: int) -> str:
    return f"{nbytes / 2**20:.1f} MiB"
