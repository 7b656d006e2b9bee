"""TensorRT for RTX: NVIDIA's compiler for GeForce and RTX GPUs, which compiles a graph without a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.builder import Compiler, PlanBuilder, PlanOptions
from engines.kernels import Kernel, read_kernels, read_scratch
from engines.progress import BuildState
from spd.bundle.contract import TensorSpec
from spd.bundle.plans import PlanProfile
from spd.errors import BackendError
from spd.runtime.packages import import_tensorrt_rtx

COMPUTE_CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
"""GPUs that it compiles for. 9.0, the H100 and H200, is TensorRT's."""

DEFAULT_COMPUTE_CAPABILITY = "8.9"
"""GeForce RTX 40, such as the RTX 4090."""


@dataclass(frozen=True)
class CompiledGraph:
    """One graph, compiled and not run."""

    plan: bytes
    """The serialized plan; it runs only with the version of TensorRT for RTX that made it."""
    kernels: tuple[Kernel, ...]
    """In TensorRT's order."""
    scratch_bytes: int
    """Device memory that each context needs for what kernels hand to each other."""


def rtx_compiler(compute_capability: str = DEFAULT_COMPUTE_CAPABILITY) -> Compiler:
    """TensorRT for RTX, for one compute capability.

    Raises:
        BackendError: it is missing or not a supported version, or does not compile for the capability.
    """
    if compute_capability not in COMPUTE_CAPABILITIES:
        advice = "; an H100 or H200 needs TensorRT itself: spd-build" if compute_capability == "9.0" else ""
        raise BackendError(
            f"TensorRT for RTX does not compile for compute capability {compute_capability}, expected "
            f"{', '.join(COMPUTE_CAPABILITIES[:-1])} or {COMPUTE_CAPABILITIES[-1]}{advice}"
        )
    rtx = import_tensorrt_rtx()

    def set_target(config: Any) -> None:
        config.num_compute_capabilities = 1
        capability = rtx.ComputeCapability.__members__[f"SM{compute_capability.replace('.', '')}"]
        if not config.set_compute_capability(capability, 0):
            raise BackendError(f"TensorRT for RTX {rtx.__version__} refuses compute capability {compute_capability}")

    return Compiler(rtx, f"TensorRT for RTX {rtx.__version__}", set_target)


def compile_graph(
    graph: Path,
    inputs: tuple[TensorSpec, ...],
    state: BuildState,
    points: int = 0,
    compiler: Compiler | None = None,
) -> CompiledGraph:
    """Compile one ONNX graph for one image, with every shape fixed.

    Args:
        graph: an ONNX file.
        inputs: its inputs, from the contract.
        state: is told of the progress and can stop it.
        points: K; 0 for an encoder.
        compiler: from `rtx_compiler`; by default for `DEFAULT_COMPUTE_CAPABILITY`.

    Raises:
        BackendError: TensorRT for RTX is missing, or its log cannot be read.
        ExportError: it cannot read the graph or build it.
    """
    messages: list[str] = []
    # It times no kernels, so a timing cache would hold nothing: the GPU at hand compiles them at the first run.
    builder = PlanBuilder(PlanOptions(), None, compiler=compiler or rtx_compiler(), record=messages.append)
    profile = PlanProfile(batch=(1, 1, 1), points=(points, points, points) if points else None)
    plan = builder.build(graph, inputs, (profile,), state)
    log = "\n".join(messages)
    return CompiledGraph(plan, read_kernels(log, graph.name), read_scratch(log, graph.name))
