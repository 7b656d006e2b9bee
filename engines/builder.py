"""One ONNX graph to one TensorRT plan. Strongly typed: the dtype of every tensor is the graph's (design 5)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.profiles import input_shapes
from engines.progress import BuildState, make_monitor
from engines.timing_cache import TimingCache
from spd.bundle.contract import TensorSpec
from spd.bundle.plans import HARDWARE_LEVELS, PlanProfile
from spd.errors import ExportError
from spd.runtime.packages import import_tensorrt

SHOWN_ERRORS = 3
"""Errors of TensorRT in one message; the first ones name the cause, the rest follow from them."""

logger = logging.getLogger("spd")


@dataclass(frozen=True)
class PlanOptions:
    """How a plan is built."""

    workspace: int | None = None
    """Most bytes of device memory for one layer's scratch space; None for TensorRT's default, all there is."""
    optimization_level: int = 3
    """0 builds fastest, 5 searches longest for the fastest plan."""
    hardware_compatibility: str = "none"
    """One of `HARDWARE_LEVELS`."""

    def __post_init__(self) -> None:
        if self.hardware_compatibility not in HARDWARE_LEVELS:
            raise ValueError(
                f"hardware_compatibility {self.hardware_compatibility!r}, expected one of {HARDWARE_LEVELS}"
            )
        if not 0 <= self.optimization_level <= 5:
            raise ValueError(f"optimization_level {self.optimization_level}, expected 0 to 5")


@dataclass(frozen=True)
class Compiler:
    """What builds a plan: TensorRT, or TensorRT for RTX, which has the same Python API."""

    trt: Any
    """The module, `tensorrt` or `tensorrt_rtx`."""
    name: str
    """For messages, such as TensorRT 10.16.1.11."""
    set_target: Callable[[Any], None] | None = None
    """Tells an `IBuilderConfig` which GPU to build for; None where it can only be the GPU at hand."""


def tensorrt_compiler() -> Compiler:
    """TensorRT, for the GPU at hand.

    Raises:
        BackendError: TensorRT is missing or not a supported version.
    """
    trt = import_tensorrt()
    return Compiler(trt, f"TensorRT {trt.__version__}")


def make_log(trt: Any, show: Callable[[str], None] | None = None, record: Callable[[str], None] | None = None) -> Any:
    """A `tensorrt.ILogger` that keeps errors in its list `errors`, logs everything, and shows what is not chatter.

    Args:
        trt: the module `tensorrt` or `tensorrt_rtx`.
        show: is told warnings and information, a message each; None to show nothing.
        record: is told every message, chatter too.
    """

    class Log(trt.ILogger):  # type: ignore[misc] # the base class is Any where TensorRT is not installed
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(msg)
            logger.debug("tensorrt %s: %s", severity, msg)
            if record is not None:
                record(msg)
            if show is not None and severity != trt.ILogger.VERBOSE:
                show(msg)

    return Log()


class PlanBuilder:
    """Builds plans with one compiler, one set of options and one timing cache."""

    def __init__(
        self,
        options: PlanOptions,
        cache: TimingCache | None,
        show: Callable[[str], None] | None = None,
        compiler: Compiler | None = None,
        record: Callable[[str], None] | None = None,
    ) -> None:
        """Load the compiler.

        Args:
            options: how plans are built.
            cache: what earlier builds measured; None for a compiler that measures nothing.
            show: is told the compiler's messages.
            compiler: TensorRT by default.
            record: is told every message, also those that are only for tracing a fault.

        Raises:
            BackendError: TensorRT is missing or not a supported version.
        """
        self._compiler = compiler or tensorrt_compiler()
        self._trt = self._compiler.trt
        self._options, self._cache, self._log = options, cache, make_log(self._trt, show, record)

    def build(
        self, graph: Path, inputs: tuple[TensorSpec, ...], profiles: tuple[PlanProfile, ...], state: BuildState
    ) -> bytes:
        """Build the plan of one graph, serialized.

        Args:
            graph: an ONNX file.
            inputs: its inputs, from the contract.
            profiles: ranges of its dynamic dimensions.
            state: is told of the progress and can stop it.

        Raises:
            ExportError: TensorRT cannot read the graph or build it.
        """
        trt = self._trt
        self._log.errors.clear()
        builder = trt.Builder(self._log)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        config = builder.create_builder_config()
        if network is None or config is None:
            raise self._failed(graph, "create a network")
        self._parse(graph, network)
        self._configure(config)
        for profile in profiles:
            self._add_profile(builder, config, graph, input_shapes(inputs, profile))
        monitor = make_monitor(trt, state)
        config.progress_monitor = monitor
        if self._cache is not None:
            self._cache.attach(config)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise self._failed(graph, "build a plan")
        if self._cache is not None:
            self._cache.keep(config)
        return bytes(plan)

    def _parse(self, graph: Path, network: Any) -> None:
        parser = self._trt.OnnxParser(network, self._log)
        if parser.parse_from_file(str(graph)):
            return
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        found = [
            f"node {error.node_name() or error.node()} ({error.node_operator() or 'no operator'}): {error.desc()}"
            for error in errors[:SHOWN_ERRORS]
        ]
        if not errors:
            raise self._failed(graph, "read the graph")
        more = f"; and {len(errors) - SHOWN_ERRORS} more" if len(errors) > SHOWN_ERRORS else ""
        raise ExportError(
            f"{self._compiler.name} cannot read {graph}: {'; '.join(found)}{more}; "
            "export it again with this version of spd-depth"
        )

    def _configure(self, config: Any) -> None:
        trt, options = self._trt, self._options
        if self._compiler.set_target is not None:
            self._compiler.set_target(config)
        if options.workspace is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace)
        config.builder_optimization_level = options.optimization_level
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        level = getattr(trt.HardwareCompatibilityLevel, options.hardware_compatibility.upper())
        config.hardware_compatibility_level = level
        # Calls overlap in lanes, each with a stream. Further streams in a context can cost every lane scratch memory:
        # an earlier form of the decoder of tiny took 133 MB in place of 117. This one would get none.
        config.max_aux_streams = 0
        # On by default; rounding operands to 10 bits costs 5e-3 of depth, float32 is allowed 1e-4.
        config.clear_flag(trt.BuilderFlag.TF32)

    def _add_profile(self, builder: Any, config: Any, graph: Path, shapes: dict[str, Any]) -> None:
        profile = builder.create_optimization_profile()
        for name, (smallest, best, largest) in shapes.items():
            try:
                profile.set_shape(name, smallest, best, largest)
            except RuntimeError as error:  # what the bindings raise for shapes that do not fit together
                raise ExportError(
                    f"{self._compiler.name} refuses the profile of {graph}, {name} {smallest} to {largest}: {error}"
                ) from error
        if config.add_optimization_profile(profile) < 0:
            raise self._failed(graph, f"use the profile {shapes}")

    def _failed(self, graph: Path, what: str) -> ExportError:
        reasons = list(dict.fromkeys(self._log.errors))[:SHOWN_ERRORS]
        return ExportError(
            f"{self._compiler.name} could not {what} of {graph}: {'; '.join(reasons) or 'it gives no reason'}"
        )
