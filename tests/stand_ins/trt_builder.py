"""Stand-in for the builder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial

from stand_ins.machine import current
from stand_ins.memory import OutOfMemoryError
from stand_ins.trt_config import IBuilderConfig, IHostMemory, IOptimizationProfile
from stand_ins.trt_enums import Bound, enum, whole
from stand_ins.trt_graph import Graph, Node
from stand_ins.trt_logging import ILogger, checked, say
from stand_ins.trt_parser import INetworkDefinition
from stand_ins.trt_plan import Plan
from stand_ins.trt_progress import Cancelled, Progress

WORKSPACE = 1 << 20
"""Bytes that a build takes and gives back."""

TIMED = 24
"""Layers that are timed one by one; enough to look like progress."""


class BuildError(Exception):
    """Why there is no plan, in TensorRT's words."""


class Builder(Bound):
    """Makes plans from networks."""

    _configuration: type[IBuilderConfig] = IBuilderConfig

    def __init__(self, logger: ILogger) -> None:
        self._logger = checked(logger)

    @property
    def logger(self) -> ILogger:
        """Where it speaks."""
        return self._logger

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        """An empty network."""
        return INetworkDefinition._make(whole(flags))

    def create_builder_config(self) -> IBuilderConfig:
        """A configuration with TensorRT's defaults."""
        return self._configuration._make(self._logger)

    def create_optimization_profile(self) -> IOptimizationProfile:
        """An empty profile."""
        return IOptimizationProfile._make()

    def reset(self) -> None:
        """Forget everything."""

    def is_network_supported(self, network: INetworkDefinition, config: IBuilderConfig) -> bool:
        """Whether a build could succeed."""
        try:
            _check(network, config)
        except BuildError:
            return False
        return True

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> IHostMemory | None:
        """A plan, or None if there is none; the log says why."""
        if not isinstance(network, INetworkDefinition) or not isinstance(config, IBuilderConfig):
            raise TypeError("build_serialized_network(): incompatible function arguments")
        machine = current()
        try:
            graph = _check(network, config)
            workspace = machine.memory.allocate(WORKSPACE, "workspace")
            try:
                _tactics(graph, config)
            finally:
                machine.memory.free(workspace)
        except BuildError as error:
            say(self._logger, "ERROR", str(error))
            return None
        except Cancelled:
            say(self._logger, "ERROR", "Engine build cancelled by the progress monitor.")
            return None
        except OutOfMemoryError as error:
            say(self._logger, "ERROR", f"[virtualMemoryBuffer.cpp] Error Code 2: OutOfMemory (Requested {error}.)")
            return None
        machine.counts.events["builds"] += 1
        flags = enum("BuilderFlag")
        version_compatible = config.get_flag(flags.VERSION_COMPATIBLE)
        plan = Plan(
            graph=graph,
            profiles=[dict(profile._shapes) for profile in config._profiles],
            verbosity=config.profiling_verbosity.name,
            hardware_compatibility=config.hardware_compatibility_level.name,
            version_compatible=version_compatible,
            lean_runtime=version_compatible and not config.get_flag(flags.EXCLUDE_LEAN_RUNTIME),
            capabilities=[kind.name for kind in getattr(config, "_capabilities", ())],
        )
        return IHostMemory._make(plan.to_bytes())


def _check(network: INetworkDefinition, config: IBuilderConfig) -> Graph:
    machine, graph = current(), network._graph
    if graph is None:
        raise BuildError("Error Code 4: API Usage Error (Network must have at least one output)")
    if machine.faults.fires("build"):
        raise BuildError(
            "Error Code 10: Internal Error (Could not find any implementation for node {ForeignNode[...]}.)"
        )
    if machine.version.startswith("10.") and not network.get_flag(enum("NetworkDefinitionCreationFlag").STRONGLY_TYPED):
        machine.violate(
            "a weakly typed network was built: TensorRT 10 needs NetworkDefinitionCreationFlag.STRONGLY_TYPED"
        )
        raise BuildError("Error Code 4: the stand-in builds strongly typed networks only")
    for tensor in graph.inputs:
        if -1 not in tensor.shape:
            continue
        if not config._profiles:
            raise BuildError(
                "Error Code 4: API Usage Error (Network has dynamic or shape inputs, but no optimization profile has "
                "been defined.)"
            )
        for number, profile in enumerate(config._profiles):
            shapes = profile._shapes.get(tensor.name)
            if shapes is None:
                raise BuildError(
                    f"Error Code 4: {tensor.name}: profile {number} is missing the dimensions of this input"
                )
            for shape in shapes:
                if len(shape) != len(tensor.shape) or any(
                    fixed not in (-1, size) for fixed, size in zip(tensor.shape, shape, strict=True)
                ):
                    raise BuildError(
                        f"Error Code 4: {tensor.name}: profile {number} has {shape}, the network {tensor.shape}"
                    )
    return graph


def _tactics(graph: Graph, config: IBuilderConfig) -> None:
    """Time the layers, or take them from the timing cache, and tell of it.

    Raises:
        Cancelled: the progress monitor ended it.
    """
    machine, progress = current(), Progress(config.progress_monitor)
    known = set() if config._cache is None else config._cache._keys

    def time(node: Node, number: int) -> None:
        what = (graph.sha256, node.name, machine.gpu, config._profiles[number]._shapes if config._profiles else None)
        key = hashlib.sha256(repr(what).encode()).hexdigest()[:32]
        machine.counts.events["timing_cache_hits" if key in known else "timing_cache_misses"] += 1
        known.add(key)

    def find(node: Node, parent: str, number: int) -> None:
        steps: list[Callable[[], None]] = [partial(time, node, number), lambda: None]
        progress.in_a_thread(lambda: progress.phase(f"Finding fastest tactic for {node.name}", parent, steps))

    def select(number: int) -> None:
        name = f"Formats and tactics selection [profile {number}]"
        progress.phase(name, "Building engine", [partial(find, node, name, number) for node in graph.nodes[:TIMED]])
        for node in graph.nodes[TIMED:]:
            time(node, number)

    steps: list[Callable[[], None]] = [partial(select, number) for number in range(len(config._profiles) or 1)]
    steps.append(lambda: progress.phase("Serializing engine", "Building engine", [lambda: None] * 2))
    progress.phase("Building engine", None, steps)
