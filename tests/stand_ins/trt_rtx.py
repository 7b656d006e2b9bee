"""What TensorRT for RTX adds to TensorRT: kernels that the GPU at hand compiles, plans that say why they do not fit.

A context compiles its kernels at its first run, which is counted. A runtime cache holds them. It is taken only by the
version, GPU and system that made it, and by a driver that is not older.
"""

from __future__ import annotations

import json
import re
from typing import Any

from stand_ins import trt_builder, trt_config, trt_context, trt_engine
from stand_ins.machine import Machine, current
from stand_ins.trt_config import IHostMemory
from stand_ins.trt_engine import SCRATCH
from stand_ins.trt_enums import NoConstructor, enum, expect, whole
from stand_ins.trt_inspector import Layer, layers_of_graph
from stand_ins.trt_logging import say
from stand_ins.trt_plan import Plan, PlanError

CACHE_MAGIC = b"RTXC"


class IBuilderConfig(trt_config.IBuilderConfig):
    """Takes the compute capabilities to build for."""

    _capabilities: list[Any] = []  # noqa: RUF012 - replaced, never added to

    @property
    def num_compute_capabilities(self) -> int:
        """How many."""
        return len(self._capabilities)

    @num_compute_capabilities.setter
    def num_compute_capabilities(self, value: int) -> None:
        self._capabilities = [enum("ComputeCapability").NONE] * whole(value)

    def set_compute_capability(self, compute_capability: Any, index: int) -> bool:
        """Set one of them."""
        self._capabilities[whole(index)] = expect(compute_capability, "ComputeCapability")
        return True

    def get_compute_capability(self, index: int) -> Any:
        """One of them."""
        return self._capabilities[whole(index)]


class Builder(trt_builder.Builder):
    """Builds for the compute capabilities of its configuration, and logs the kernels."""

    _configuration = IBuilderConfig

    def build_serialized_network(self, network: Any, config: Any) -> IHostMemory | None:
        """A plan, or None if there is none; the log says why."""
        plan = super().build_serialized_network(network, config)
        if plan is not None:
            for profile in range(len(config._profiles) or 1):
                say(self._logger, "VERBOSE", f"Max Scratch Memory: {SCRATCH} bytes")
                lines = [_kernel_line(layer, profile) for layer in layers_of_graph(network._graph) if layer["Outputs"]]
                say(self._logger, "VERBOSE", "\n".join(["Layers:", *lines]))
        return plan


class Runtime(trt_engine.Runtime):
    """Says whether a plan fits before it reads it."""

    def get_engine_validity(self, buffer: Any) -> tuple[Any, int]:
        """Validity, and the reasons against it as bits."""
        machine, bits = current(), enum("EngineInvalidityDiagnostics")
        try:
            plan = Plan.from_bytes(bytes(memoryview(buffer)))
        except PlanError:
            return enum("EngineValidity").INVALID, int(bits.MALFORMED_ENGINE)
        wrong = 0
        if plan.tensorrt != machine.version:
            wrong |= int(bits.VERSION_MISMATCH)
        if not plan.gpu_fits():
            wrong |= int(bits.UNSUPPORTED_CC)
        return enum("EngineValidity").INVALID if wrong else enum("EngineValidity").VALID, wrong


class IRuntimeCache(NoConstructor):
    """Kernels that were compiled."""

    @classmethod
    def _make(cls) -> IRuntimeCache:
        made = cls.__new__(cls)
        made._kernels = set()
        return made

    _kernels: set[str]

    def serialize(self) -> IHostMemory:
        """For another process."""
        machine = current()
        document = {**_made_on(machine), "driver": machine.driver, "kernels": sorted(self._kernels)}
        return IHostMemory._make(CACHE_MAGIC + json.dumps(document).encode())

    def deserialize(self, blob: Any) -> bool:
        """Take what another process compiled; False where the machine differs or the bytes are none of a cache."""
        data = bytes(memoryview(blob))
        if not data.startswith(CACHE_MAGIC):
            return False
        document = json.loads(data[len(CACHE_MAGIC) :])
        machine = current()
        kernels, driver = document.pop("kernels"), document.pop("driver")
        if document != _made_on(machine) or driver > machine.driver:
            return False
        self._kernels.update(kernels)
        return True

    def reset(self) -> bool:
        """Forget everything."""
        self._kernels.clear()
        return True


class IRuntimeConfig(NoConstructor):
    """How contexts are made."""

    @classmethod
    def _make(cls) -> IRuntimeConfig:
        made = cls.__new__(cls)
        made._cache, made._strategy = None, enum("ExecutionContextAllocationStrategy").STATIC
        made.cuda_graph_strategy = enum("CudaGraphStrategy").DISABLED
        made.dynamic_shapes_kernel_specialization_strategy = enum("DynamicShapesKernelSpecializationStrategy").LAZY
        return made

    cuda_graph_strategy: Any
    dynamic_shapes_kernel_specialization_strategy: Any
    _cache: IRuntimeCache | None
    _strategy: Any

    def set_execution_context_allocation_strategy(self, strategy: Any = None) -> None:
        """Whose the scratch memory is."""
        kinds = enum("ExecutionContextAllocationStrategy")
        self._strategy = kinds.STATIC if strategy is None else expect(strategy, "ExecutionContextAllocationStrategy")

    def get_execution_context_allocation_strategy(self) -> Any:
        """Whose the scratch memory is."""
        return self._strategy

    def create_runtime_cache(self) -> IRuntimeCache:
        """An empty one."""
        return IRuntimeCache._make()

    def set_runtime_cache(self, cache: IRuntimeCache | None = None) -> bool:
        """Where compiled kernels go."""
        self._cache = cache
        return True

    def get_runtime_cache(self) -> IRuntimeCache | None:
        """Where compiled kernels go."""
        return self._cache


class ICudaEngine(trt_engine.ICudaEngine):
    """Makes contexts by a runtime configuration."""

    def create_runtime_config(self) -> IRuntimeConfig:
        """The default one."""
        return IRuntimeConfig._make()

    def create_execution_context(self, runtime_config: Any = None) -> trt_context.IExecutionContext | None:  # type: ignore[override]
        """A context that compiles its kernels at its first run."""
        if not isinstance(runtime_config, IRuntimeConfig):
            return super().create_execution_context(runtime_config)
        machine = current()
        if runtime_config.cuda_graph_strategy is not enum("CudaGraphStrategy").DISABLED:
            machine.violate("TensorRT for RTX was told to capture graphs, which SPD does itself")
        specialization = enum("DynamicShapesKernelSpecializationStrategy")
        if runtime_config.dynamic_shapes_kernel_specialization_strategy is specialization.LAZY:
            machine.violate("kernels that are compiled later never get into a captured graph")
        made = super().create_execution_context(runtime_config._strategy)
        if isinstance(made, IExecutionContext):
            made._cache = runtime_config._cache
        return made


class IExecutionContext(trt_context.IExecutionContext):
    """Compiles the kernels of a profile at its first run, unless the runtime cache has them."""

    _cache: IRuntimeCache | None = None

    def execute_async_v3(self, stream_handle: int) -> bool:
        """Enqueue one run."""
        kernels = f"{self._engine._plan.graph.sha256} {self._profile}"
        known = set[str]() if self._cache is None else self._cache._kernels
        done = super().execute_async_v3(stream_handle)
        if done and kernels not in known:
            self._machine.counts.events["compiled_kernels"] += 1
            known.add(kernels)
        return done


def _made_on(machine: Machine) -> dict[str, Any]:
    return {"version": machine.version, "gpu": machine.gpu}


ICudaEngine._context = IExecutionContext
Runtime._engine = ICudaEngine

CLASSES: tuple[type, ...] = (
    Builder,
    IBuilderConfig,
    ICudaEngine,
    IExecutionContext,
    IRuntimeCache,
    IRuntimeConfig,
    Runtime,
)
"""What it offers instead of TensorRT's classes, and beside them."""


def _kernel_line(layer: Layer, profile: int) -> str:
    """A layer of the inspector as the builder logs it."""
    name = re.sub(r"_myl\d+_", f"_myl{profile}_", layer["Name"])
    listed = {
        key: ",".join(
            f" {{ Name: {tensor['Name']}, Dimensions: [{','.join(map(str, tensor['Dimensions']))}], Strides: [], "
            f"StrideOrder: [], Datatype: {tensor['Format/Datatype']}, Format: Row major }}"
            for tensor in layer.get(key, [])
        )
        for key in ("Inputs", "Constants", "Outputs")
    }
    tensors = ", ".join(f"{key}: [{text}]" for key, text in listed.items())
    metadata = layer["Metadata"].replace("\x1f", "")
    return f"Name: {name}, LayerType: {layer['LayerType']}, {tensors}, TacticName: , StreamId: 0, Metadata: {metadata}"
