"""Stand-in for the runtime and the engines that it reads from plans."""

from __future__ import annotations

from typing import Any

from stand_ins.machine import Machine, current
from stand_ins.memory import Allocation, OutOfMemoryError
from stand_ins.trt_config import IHostMemory
from stand_ins.trt_context import IExecutionContext
from stand_ins.trt_enums import Bound, Dims, NoConstructor, enum, expect
from stand_ins.trt_graph import Tensor
from stand_ins.trt_inspector import EngineInspector, layers_of_graph
from stand_ins.trt_logging import ILogger, checked, say
from stand_ins.trt_plan import Plan, PlanError

SCRATCH = 1 << 16
"""Bytes of device memory that a context takes for each image."""


class Runtime(Bound):
    """Reads plans; host code in them is not allowed unless asked for."""

    engine_host_code_allowed: bool
    max_threads: int
    temporary_directory: str
    _engine: type[ICudaEngine]

    def __init__(self, logger: ILogger) -> None:
        self._logger = checked(logger)
        self.engine_host_code_allowed = False
        self.max_threads = 1
        self.temporary_directory = ""

    @property
    def logger(self) -> ILogger:
        """Where it speaks."""
        return self._logger

    def deserialize_cuda_engine(self, serialized_engine: Any) -> ICudaEngine | None:
        """An engine, or None; the log says why."""
        data = bytes(memoryview(serialized_engine))
        machine = current()
        machine.counts.events["deserializations"] += 1
        try:
            if machine.faults.fires("deserialize"):
                raise PlanError("a planned fault")
            plan = Plan.from_bytes(data)
            plan.check(self.engine_host_code_allowed)
            with machine.lock:
                weights = machine.memory.allocate(len(data), "engine")
        except PlanError as error:
            say(self._logger, "ERROR", f"IRuntime::deserializeCudaEngine: Error Code 6: API Usage Error ({error})")
            return None
        except OutOfMemoryError as error:
            say(
                self._logger,
                "ERROR",
                f"IRuntime::deserializeCudaEngine: Error Code 2: OutOfMemory (Requested {error}.)",
            )
            return None
        if plan.gpu != machine.gpu:
            say(
                self._logger,
                "WARNING",
                "Using an engine plan file across different models of devices is not recommended",
            )
        return self._engine._make(plan, self._logger, weights)


class ICudaEngine(NoConstructor):
    """A plan that was read."""

    _context: type[IExecutionContext] = IExecutionContext

    @classmethod
    def _make(cls, plan: Plan, logger: ILogger, weights: Allocation) -> ICudaEngine:
        made = cls.__new__(cls)
        made._plan, made._logger, made._weights, made._machine = plan, logger, weights, current()
        made._tensors = {tensor.name: tensor for tensor in plan.graph.tensors}
        made._machine.counts.events["live_engines"] += 1
        return made

    _plan: Plan
    _logger: ILogger
    _weights: Allocation
    _machine: Machine
    _tensors: dict[str, Tensor]

    def __del__(self) -> None:
        if hasattr(self, "_machine"):
            self._machine.memory.free(self._weights)
            self._machine.counts.events["live_engines"] -= 1

    @property
    def name(self) -> str:
        """Name of the network."""
        return ""

    @property
    def num_io_tensors(self) -> int:
        """Inputs and outputs."""
        return len(self._tensors)

    @property
    def num_layers(self) -> int:
        """Layers after fusion."""
        return len(layers_of_graph(self._plan.graph))

    @property
    def num_optimization_profiles(self) -> int:
        """Profiles; one if nothing is dynamic."""
        return len(self._plan.profiles) or 1

    @property
    def device_memory_size_v2(self) -> int:
        """Bytes that a context needs on the device, whatever its profile."""
        return max(map(self.get_device_memory_size_for_profile_v2, range(self.num_optimization_profiles)))

    def get_device_memory_size_for_profile_v2(self, profile_index: int) -> int:
        """Bytes that a context needs on the device with a profile."""
        first = self.get_tensor_name(0)
        *_, largest = self.get_tensor_profile_shape(first, profile_index)
        return SCRATCH * largest[0]

    @property
    def hardware_compatibility_level(self) -> Any:
        """As it was built."""
        return getattr(enum("HardwareCompatibilityLevel"), self._plan.hardware_compatibility)

    @property
    def profiling_verbosity(self) -> Any:
        """As it was built."""
        return getattr(enum("ProfilingVerbosity"), self._plan.verbosity)

    def get_tensor_name(self, index: int) -> str:
        """Inputs first, then outputs."""
        return list(self._tensors)[index]

    def __getitem__(self, arg0: int) -> str:
        return self.get_tensor_name(arg0)

    def get_tensor_mode(self, name: str) -> Any:
        """Input, output, or none for a name that the engine does not have."""
        mode = enum("TensorIOMode")
        if self._known(name) is None:
            return mode.NONE
        return mode.INPUT if self._tensors[name] in self._plan.graph.inputs else mode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        """As in the ONNX graph; FLOAT for a name that the engine does not have."""
        tensor = self._known(name)
        return getattr(enum("DataType"), "FLOAT" if tensor is None else tensor.dtype)

    def get_tensor_shape(self, name: str) -> Dims:
        """With -1 for dynamic sizes."""
        tensor = self._known(name)
        return Dims(() if tensor is None else tensor.shape)

    def get_tensor_location(self, name: str) -> Any:
        """On the device."""
        return enum("TensorLocation").DEVICE

    def get_tensor_format(self, name: str) -> Any:
        """Row by row."""
        return enum("TensorFormat").LINEAR

    def is_shape_inference_io(self, name: str) -> bool:
        """No tensor is a shape."""
        return False

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Dims]:
        """Smallest, best and largest shape of an input."""
        tensor = self._known(name)
        if tensor is None or not 0 <= profile_index < self.num_optimization_profiles:
            return [Dims() for _ in range(3)]
        shapes = self._plan.profiles[profile_index] if self._plan.profiles else {}
        return [Dims(shape) for shape in shapes.get(name, (tensor.shape,) * 3)]

    def serialize(self) -> IHostMemory:
        """The plan again."""
        return IHostMemory._make(self._plan.to_bytes())

    def create_engine_inspector(self) -> EngineInspector:
        """What the engine consists of."""
        return EngineInspector._make(self._plan)

    def create_execution_context(self, strategy: Any = None) -> IExecutionContext | None:
        """A context, or None when the device has no room for it."""
        kinds = enum("ExecutionContextAllocationStrategy")
        strategy = kinds.STATIC if strategy is None else expect(strategy, "ExecutionContextAllocationStrategy")
        machine, size = current(), self.device_memory_size_v2
        try:
            if machine.faults.fires("context"):
                raise OutOfMemoryError("a planned fault")
            with machine.lock:
                scratch = None if strategy is kinds.USER_MANAGED else machine.memory.allocate(size, "context")
        except OutOfMemoryError as error:
            say(self._logger, "ERROR", f"ICudaEngine::createExecutionContext: Error Code 2: OutOfMemory ({error})")
            return None
        return self._context._make(self, self._logger, scratch)

    def _known(self, name: str) -> Tensor | None:
        if name not in self._tensors:
            say(self._logger, "ERROR", f"Error Code 3: API Usage Error (Given invalid tensor name: {name}.)")
        return self._tensors.get(name)


Runtime._engine = ICudaEngine
