"""Stand-in for the execution context: shapes, addresses, and work on a stream."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stand_ins.cuda_core import streams
from stand_ins.machine import Machine, current
from stand_ins.memory import ALIGNMENT, Allocation
from stand_ins.timeline import ExecutionError, Span, Timeline, Work
from stand_ins.trt_enums import Dims, NoConstructor, whole
from stand_ins.trt_graph import NUMPY, Tensor, compute
from stand_ins.trt_logging import ILogger, say

if TYPE_CHECKING:
    from stand_ins.trt_engine import ICudaEngine

Tensors = dict[str, tuple[int, tuple[int, ...]]]
"""Address and shape of every tensor."""


class IExecutionContext(NoConstructor):
    """Runs an engine. Contexts may share a profile: TensorRT 10 and later allow it and start all of them with 0."""

    @classmethod
    def _make(cls, engine: ICudaEngine, logger: ILogger, scratch: Allocation | None) -> IExecutionContext:
        made = cls.__new__(cls)
        made._engine, made._logger, made._machine = engine, logger, current()
        made._scratch, made._owned = None if scratch is None else (scratch.address, scratch.size), scratch
        made._profile, made._shapes, made._addresses, made._warm = 0, {}, {}, None
        made._busy, made.name = threading.Lock(), ""
        made._machine.counts.events["live_contexts"] += 1
        return made

    name: str
    _engine: ICudaEngine
    _logger: ILogger
    _machine: Machine
    _scratch: Span | None
    _owned: Allocation | None
    _profile: int
    _shapes: dict[str, tuple[int, ...]]
    _addresses: dict[str, int]
    _warm: tuple[int, tuple[tuple[str, tuple[int, ...]], ...]] | None
    """Profile and shapes of the last enqueue that was not captured."""
    _busy: threading.Lock

    def __del__(self) -> None:
        if not hasattr(self, "_machine"):
            return
        self._machine.counts.events["live_contexts"] -= 1
        if self._owned is not None:
            if self._owned.pending:
                self._machine.violate("a context was destroyed while its work was under way")
            self._machine.memory.free(self._owned)

    @property
    def engine(self) -> ICudaEngine:
        """What it runs."""
        return self._engine

    @property
    def active_optimization_profile(self) -> int:
        """Index of the profile."""
        return self._profile

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        """Take a profile; all shapes have to be set again.

        Raises:
            RuntimeError: there is no such profile, or no such stream. The bindings turn False into this.
        """
        timeline = self._timeline(stream_handle)
        if not 0 <= whole(profile_index) < self._engine.num_optimization_profiles or timeline is None:
            self._error(f"setOptimizationProfileAsync: profile {profile_index} or the stream is invalid")
            raise RuntimeError("Error in set optimization profile async.")
        self._profile = profile_index
        self._shapes.clear()
        self._warm = None
        timeline.enqueue(Work("profile switch", lambda: None, writes=self._scratch_spans()))
        return True

    def set_input_shape(self, name: str, shape: Any) -> bool:
        """Set the shape of an input; False outside of the profile."""
        tensor = self._tensor(name)
        sizes = tuple(Dims(shape))
        if tensor is None or tensor not in self._engine._plan.graph.inputs:
            return self._error(f"setInputShape: {name} is not an input")
        low, _, high = (tuple(bound) for bound in self._engine.get_tensor_profile_shape(name, self._profile))
        fits = len(sizes) == len(low) and all(a <= b <= c for a, b, c in zip(low, sizes, high, strict=True))
        if not fits:
            return self._error(
                f"setInputShape: {name}: {list(sizes)} is not in profile {self._profile}, {list(low)} to {list(high)}"
            )
        self._shapes[name] = sizes
        return True

    def get_tensor_shape(self, name: str) -> Dims:
        """The shape as far as it is known; -1 for the rest."""
        tensor = self._tensor(name)
        if tensor is None:
            return Dims()
        return Dims(self._shapes.get(name) or tensor.resolved(self._sizes()))

    def set_tensor_address(self, name: str, memory: int) -> bool:
        """Set where a tensor is."""
        if self._tensor(name) is None:
            return False
        self._addresses[name] = whole(memory)
        return True

    def get_tensor_address(self, name: str) -> int:
        """Where a tensor is; 0 if that is not set."""
        return self._addresses.get(name, 0)

    def set_device_memory(self, memory: int, size: int) -> None:
        """Give the context its memory, for the strategy USER_MANAGED."""
        needed = self._engine.get_device_memory_size_for_profile_v2(self._profile)
        if whole(size) < needed or whole(memory) % ALIGNMENT:
            self._error(f"setDeviceMemoryV2: {size} bytes at {memory:#x} are too few or not aligned")
            return
        self._scratch = (memory, size)

    def infer_shapes(self) -> list[str]:
        """Names of inputs whose shape is not set.

        Raises:
            RuntimeError: inputs contradict each other.
        """
        missing = self._missing()
        if not missing and self._contradiction() is not None:
            raise RuntimeError("infer_shapes error code: -1")
        return missing

    @property
    def all_binding_shapes_specified(self) -> bool:
        """Whether all shapes are known."""
        return not self._missing()

    def execute_async_v3(self, stream_handle: int) -> bool:
        """Enqueue one run; False, and a word in the log, if something is not set."""
        if not self._busy.acquire(blocking=False):
            self._machine.violate("a context was used by two threads at once")
            return False
        try:
            return self._enqueue(stream_handle)
        finally:
            self._busy.release()

    def _enqueue(self, stream_handle: int) -> bool:
        machine, timeline = self._machine, self._timeline(stream_handle)
        machine.counts.events["enqueues"] += 1
        if timeline is None:
            return self._error(f"enqueueV3: {whole(stream_handle):#x} is not a stream")
        reason = self._not_ready()
        if machine.faults.fires("enqueue"):
            reason = "Cuda Runtime (a planned fault)"
        shapes = (self._profile, tuple(sorted(self._shapes.items())))
        if reason is None and timeline.capture is not None and self._warm != shapes:
            reason = "Cuda Runtime (operation not permitted when stream is capturing: no enqueue at this shape before)"
        if reason is not None:
            if timeline.capture is not None:
                timeline.capture.broken = reason
            return self._error(f"enqueueV3: {reason}")
        with machine.lock:
            timeline.enqueue(self._work(shapes, timeline.capture is not None))
        if timeline.capture is None:
            self._warm = shapes
        return True

    def _work(self, shapes: Any, captured: bool) -> Work:
        graph = self._engine._plan.graph
        bound: Tensors = {
            tensor.name: (self._addresses[tensor.name], tuple(self.get_tensor_shape(tensor.name)))
            for tensor in graph.tensors
        }

        def span(tensor: Tensor) -> Span:
            address, shape = bound[tensor.name]
            return address, tensor.nbytes(shape)

        engine, machine, alive = self._engine, self._machine, weakref.ref(self)

        def run() -> None:
            context = alive()
            if context is None:
                machine.violate("work of a context ran, or was replayed, after the context was destroyed")
            elif captured and context._warm != shapes:
                machine.violate("a graph replays a context whose profile or shapes have changed since the capture")
            if machine.faults.fires("execution"):
                raise ExecutionError("a planned fault")
            _execute(machine, engine, bound)

        writes = [span(tensor) for tensor in graph.outputs]
        name = f"enqueue of {', '.join(tensor.name for tensor in graph.outputs[:2])}"
        return Work(name, run, [span(tensor) for tensor in graph.inputs], writes + self._scratch_spans())

    def _not_ready(self) -> str | None:
        missing = self._missing()
        if missing:
            return f"Error Code 3: API Usage Error (the shapes of {', '.join(missing)} are not set)"
        if self._contradiction() is not None:
            return f"Error Code 7: Internal Error ({self._contradiction()})"
        if self._scratch is None:
            return "Error Code 3: API Usage Error (the context has no device memory)"
        return next(filter(None, map(self._bad_address, self._engine._tensors)), None)

    def _bad_address(self, name: str) -> str | None:
        address = self._addresses.get(name, 0)
        if not address:
            return f"Error Code 3: API Usage Error (Neither address or allocator is set for tensor {name}.)"
        if address % ALIGNMENT:
            return f"Error Code 3: API Usage Error (the address {address:#x} of {name} is not aligned)"
        if self._machine.memory.find(address, 1) is None:
            return f"Cuda Runtime (invalid argument: {name} is not in device or pinned memory)"
        return None

    def _scratch_spans(self) -> list[Span]:
        return [] if self._scratch is None else [self._scratch]

    def _missing(self) -> list[str]:
        inputs = self._engine._plan.graph.inputs
        return [tensor.name for tensor in inputs if -1 in tensor.shape and tensor.name not in self._shapes]

    def _sizes(self) -> dict[str, int]:
        sizes: dict[str, int] = {}
        for tensor in self._engine._plan.graph.inputs:
            for dim, size in zip(tensor.dims, self._shapes.get(tensor.name, ()), strict=False):
                if isinstance(dim, str):
                    sizes.setdefault(dim, size)
        return sizes

    def _contradiction(self) -> str | None:
        sizes = self._sizes()
        for tensor in self._engine._plan.graph.inputs:
            if tensor.name in self._shapes and self._shapes[tensor.name] != tensor.resolved(sizes):
                return f"{tensor.name} is {self._shapes[tensor.name]}, other inputs make it {tensor.resolved(sizes)}"
        return None

    def _tensor(self, name: str) -> Tensor | None:
        return self._engine._known(name)

    def _timeline(self, handle: int) -> Timeline | None:
        stream = streams(self._machine).get(whole(handle))
        return None if stream is None else stream._timeline

    def _error(self, text: str) -> bool:
        say(self._logger, "ERROR", f"IExecutionContext::{text}")
        return False


def _execute(machine: Machine, engine: ICudaEngine, bound: Tensors) -> None:
    """Compute the outputs where they belong."""
    graph = engine._plan.graph

    def view(tensor: Tensor) -> NDArray[Any]:
        address, shape = bound[tensor.name]
        flat: NDArray[Any] = machine.memory.view(address, tensor.nbytes(shape)).view(NUMPY[tensor.dtype])
        return flat.reshape(shape)

    results = compute(graph, {tensor.name: view(tensor) for tensor in graph.inputs})
    for tensor in graph.outputs:
        target = view(tensor)
        np.copyto(target, results[tensor.name], casting="no")
        if machine.faults.nan_output == tensor.name:
            target.view(np.uint8)[...] = 0xFF
