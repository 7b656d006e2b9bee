"""What makes the plans of a bundle, with TensorRT or with TensorRT for RTX, and says what they became."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engines.builder import PlanBuilder, PlanOptions
from engines.inspector import plan_layers
from engines.layers import Layer
from engines.progress import BuildState
from engines.rtx import FP8_ADVICE, PORTABLE, check_fp8, compile_profiles, rtx_compiler
from engines.timing_cache import TimingCache
from spd.bundle.contract import TensorSpec
from spd.bundle.plans import PlanProfile, RtxTarget, Target
from spd.errors import BackendError
from spd.runtime.tensorrt.cuda import current_target
from spd.runtime.tensorrt.engine import Runtime
from spd.runtime.tensorrt.library import RTX, TENSORRT, Library


@dataclass(frozen=True)
class ProfileFacts:
    """What the compiler said of one profile of a plan."""

    profile: PlanProfile
    scratch_bytes: int
    """Device memory that each context needs for what kernels hand to each other."""
    kernels: int | None = None
    """None where the compiler lists none."""
    moved_bytes: int | None = None
    """What the kernels read and write."""

    def as_dict(self) -> dict[str, Any]:
        """For `engines.json`."""
        facts = {key: value for key, value in asdict(self).items() if value is not None}
        return {**facts.pop("profile"), **facts}


@dataclass(frozen=True)
class MadePlan:
    """A plan, and what it consists of."""

    plan: bytes
    layers: tuple[Layer, ...]
    """What it is judged by: TensorRT's layers, or the kernels of all profiles."""
    profiles: tuple[ProfileFacts, ...]


class PlanMaker(ABC):
    """Makes plans for one target."""

    library: Library
    target: Target | RtxTarget
    title: str
    """The library, its version and what it builds for."""

    @abstractmethod
    def check(self, precisions: Iterable[str]) -> None:
        """Refuse precisions that the target lacks.

        Raises:
            BackendError: names one.
        """

    @abstractmethod
    def machine(self) -> Target:
        """The machine at hand, to run plans on.

        Raises:
            BackendError: it cannot run them.
        """

    @abstractmethod
    def make(
        self, graph: Path, inputs: tuple[TensorSpec, ...], profiles: tuple[PlanProfile, ...], state: BuildState
    ) -> MadePlan:
        """Build the plan of one graph; as `PlanBuilder.build`."""


class TensorRTMaker(PlanMaker):
    """TensorRT, which builds on the GPU at hand and for it."""

    library = TENSORRT

    def __init__(
        self, options: PlanOptions, cache: Path | None, say: Callable[[str], None], show: Callable[[str], None] | None
    ) -> None:
        """Look at the machine.

        Args:
            options: how plans are built.
            cache: folder of the timing caches; None for none.
            say: is told what is wrong with a timing cache.
            show: is told TensorRT's messages.

        Raises:
            BackendError: TensorRT or a GPU is missing.
        """
        self.target: Target = current_target()
        gpu, capability = self.target.gpu, self.target.compute_capability
        self.title = f"TensorRT {self.target.tensorrt} on {gpu}, compute capability {capability}"
        self._builder = PlanBuilder(options, TimingCache(cache, self.target, say), show)

    def check(self, precisions: Iterable[str]) -> None:
        """As in `PlanMaker`."""
        check_fp8(precisions, (self.target.compute_capability,), "take int8-fp16")

    def machine(self) -> Target:
        """As in `PlanMaker`."""
        return self.target

    def make(
        self, graph: Path, inputs: tuple[TensorSpec, ...], profiles: tuple[PlanProfile, ...], state: BuildState
    ) -> MadePlan:
        """As in `PlanMaker`."""
        plan = self._builder.build(graph, inputs, profiles, state)
        runtime = Runtime()
        engine = runtime.deserialise(plan)
        if engine is None:
            raise runtime.error("deserialize_cuda_engine", f"the plan of {graph.name}")
        scratch = [int(engine.get_device_memory_size_for_profile_v2(index)) for index in range(len(profiles))]
        layers = plan_layers(runtime, engine, f"the plan of {graph.name}")
        return MadePlan(plan, layers, tuple(map(ProfileFacts, profiles, scratch)))


class RtxMaker(PlanMaker):
    """TensorRT for RTX, which builds anywhere, for the compute capabilities that it is told."""

    library = RTX

    def __init__(
        self, options: PlanOptions, compute_capabilities: tuple[str, ...], show: Callable[[str], None] | None
    ) -> None:
        """Load the compiler.

        Args:
            options: how plans are built.
            compute_capabilities: some of `COMPUTE_CAPABILITIES`; none for `PORTABLE`.
            show: is told the compiler's messages.

        Raises:
            BackendError: it is missing, or does not compile for one of the capabilities.
        """
        capabilities = compute_capabilities or PORTABLE
        self._compiler = rtx_compiler(*capabilities)
        self._options, self._show = options, show
        self.target: RtxTarget = RtxTarget(str(self._compiler.trt.__version__), capabilities)
        self.title = f"{self._compiler.name} for compute capability {', '.join(capabilities)}"

    def check(self, precisions: Iterable[str]) -> None:
        """As in `PlanMaker`."""
        check_fp8(precisions, self.target.compute_capabilities, FP8_ADVICE)

    def machine(self) -> Target:
        """As in `PlanMaker`."""
        here = current_target(RTX)
        if here.compute_capability not in self.target.compute_capabilities:
            raise BackendError(f"{here.gpu} has compute capability {here.compute_capability}")
        return here

    def make(
        self, graph: Path, inputs: tuple[TensorSpec, ...], profiles: tuple[PlanProfile, ...], state: BuildState
    ) -> MadePlan:
        """As in `PlanMaker`."""
        made = compile_profiles(graph, inputs, profiles, state, self._compiler, self._options, self._show)
        facts = [
            ProfileFacts(profile, found.scratch_bytes, len(found.kernels), found.moved_bytes)
            for profile, found in zip(profiles, made.profiles, strict=True)
        ]
        return MadePlan(made.plan, tuple(kernel for found in made.profiles for kernel in found.kernels), tuple(facts))
