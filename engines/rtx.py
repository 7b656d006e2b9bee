"""TensorRT for RTX: NVIDIA's compiler for GeForce and RTX GPUs, which compiles a graph without a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.builder import Compiler, PlanBuilder, PlanOptions
from engines.kernels import Kernel, read_kernels, read_scratch
from engines.progress import BuildState
from spd.bundle.contract import FP8_CAPABILITY, TensorSpec
from spd.bundle.plans import PlanProfile
from spd.errors import BackendError, TensorRTError
from spd.runtime.packages import import_tensorrt_rtx

COMPUTE_CAPABILITIES = ("8.0", "8.6", "8.9", "12.0", "12.1")
"""GPUs that it compiles these graphs for. 9.0, the H100 and H200, is TensorRT's."""

PORTABLE = ("8.0", "8.6", "8.9", "12.0")
"""What it compiles for if it is not told: GeForce RTX 30, 40 and 50, and the professional GPUs of these generations.

A plan for several has kernels that the oldest of them can run. For `tiny`'s decoder in float16 at 480x640 with 256
points these are 109 kernels and 178 MB with 8.0 or 8.6 among them, and 90 and 145 MB for 8.9 and 12.0.
"""

FP8_ADVICE = "--compute 8.9,12.0 is for GeForce RTX 40 and 50, and int8-fp16 is for all"
"""What to do where fp8 is asked for GPUs that have none."""

ADVICE = {
    "7.5": "on Turing it multiplies no float32 matrices, which the decoder has in every precision",
    "9.0": "an H100 or H200 needs TensorRT itself: spd-build",
}
"""Why there is nothing for other compute capabilities."""

DEFAULT_COMPUTE_CAPABILITY = "8.9"
"""Whose kernels are counted: GeForce RTX 40, such as the RTX 4090."""


@dataclass(frozen=True)
class CompiledProfile:
    """One profile of a plan."""

    kernels: tuple[Kernel, ...]
    """In TensorRT's order."""
    scratch_bytes: int
    """Device memory that each context needs for what kernels hand to each other."""

    @property
    def moved_bytes(self) -> int | None:
        """What the kernels read and write; None where the profile leaves sizes open."""
        if any(-1 in tensor.shape for kernel in self.kernels for tensor in kernel.tensors):
            return None
        return sum(kernel.nbytes for kernel in self.kernels)


@dataclass(frozen=True)
class CompiledGraph:
    """One graph, compiled and not run."""

    plan: bytes
    """The serialized plan; it runs only with the version of TensorRT for RTX that made it."""
    profiles: tuple[CompiledProfile, ...]

    @property
    def kernels(self) -> tuple[Kernel, ...]:
        """Those of the first profile."""
        return self.profiles[0].kernels

    @property
    def scratch_bytes(self) -> int:
        """That of the first profile."""
        return self.profiles[0].scratch_bytes


def check_capability(compute_capability: str) -> None:
    """Refuse a compute capability that TensorRT for RTX does not compile for.

    Raises:
        BackendError: it does not.
    """
    if compute_capability not in COMPUTE_CAPABILITIES:
        advice = f"; {ADVICE[compute_capability]}" if compute_capability in ADVICE else ""
        raise BackendError(
            f"TensorRT for RTX does not compile for compute capability {compute_capability}, expected "
            f"{', '.join(COMPUTE_CAPABILITIES[:-1])} or {COMPUTE_CAPABILITIES[-1]}{advice}"
        )


def check_fp8(precisions: Iterable[str], compute_capabilities: Iterable[str], instead: str) -> None:
    """Refuse fp8 for GPUs that have none, before minutes of building.

    Args:
        precisions: what is asked for.
        compute_capabilities: what it is to be built for.
        instead: what to do, for the message.

    Raises:
        BackendError: fp8 is among the precisions, and one of the capabilities lacks it.
    """
    without = [each for each in compute_capabilities if tuple(map(int, each.split("."))) < FP8_CAPABILITY]
    if "fp8" in precisions and without:
        least = ".".join(map(str, FP8_CAPABILITY))
        raise BackendError(f"fp8 needs compute capability {least} or later, not {', '.join(without)}; {instead}")


def rtx_compiler(*compute_capabilities: str) -> Compiler:
    """TensorRT for RTX, for some compute capabilities; without any, for those of `PORTABLE`.

    Raises:
        BackendError: it is missing or not a supported version, or does not compile for one of the capabilities.
    """
    wanted = compute_capabilities or PORTABLE
    for capability in wanted:
        check_capability(capability)
    rtx = import_tensorrt_rtx()

    def set_target(config: Any) -> None:
        config.num_compute_capabilities = len(wanted)
        for index, capability in enumerate(wanted):
            member = rtx.ComputeCapability.__members__[f"SM{capability.replace('.', '')}"]
            if not config.set_compute_capability(member, index):
                raise BackendError(f"TensorRT for RTX {rtx.__version__} refuses compute capability {capability}")

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
    profile = PlanProfile(batch=(1, 1, 1), points=(points, points, points) if points else None)
    return compile_profiles(graph, inputs, (profile,), state, compiler or rtx_compiler(DEFAULT_COMPUTE_CAPABILITY))


def compile_profiles(
    graph: Path,
    inputs: tuple[TensorSpec, ...],
    profiles: tuple[PlanProfile, ...],
    state: BuildState,
    compiler: Compiler,
    options: PlanOptions | None = None,
    show: Callable[[str], None] | None = None,
) -> CompiledGraph:
    """Compile one ONNX graph, with its kernels for each profile.

    Args:
        graph: an ONNX file.
        inputs: its inputs, from the contract.
        profiles: ranges of its dynamic dimensions.
        state: is told of the progress and can stop it.
        compiler: from `rtx_compiler`.
        options: how to build.
        show: is told the compiler's messages.

    Raises:
        BackendError: the compiler's log cannot be read.
        ExportError: TensorRT for RTX cannot read the graph or build it.
    """
    messages: list[str] = []
    # It times no kernels, so a timing cache would hold nothing: the GPU at hand compiles them at the first run.
    builder = PlanBuilder(options or PlanOptions(), None, show, compiler, messages.append)
    plan = builder.build(graph, inputs, profiles, state)
    log = "\n".join(messages)
    kernels, scratch = read_kernels(log, graph.name), read_scratch(log, graph.name)
    each = [tuple(kernel for kernel in kernels if kernel.profile == index) for index in range(len(profiles))]
    if len(scratch) != len(profiles) or not all(each) or sum(map(len, each)) != len(kernels):
        raise TensorRTError(
            f"the log of the builder gives {graph.name} scratch memory {len(scratch)} times and kernels for profiles "
            f"{sorted({kernel.profile for kernel in kernels})}, expected {len(profiles)} profiles; this version of "
            "spd-depth reads the log of TensorRT for RTX 1.7"
        )
    return CompiledGraph(plan, tuple(map(CompiledProfile, each, scratch)))
