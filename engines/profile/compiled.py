"""What the graphs of a bundle become on a GPU, without one: the kernels that TensorRT for RTX compiles them to.

The kernels are counted, with the bytes that they read and write, by the paper's blocks. Nothing is run: times are
predicted from data sheets (`engines.profile.predicted`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from engines.counts import Counts
from engines.kernels import Kernel
from engines.profile.blocks import BLOCKS
from engines.profile.cost import Cost, CostedGraph
from engines.profile.predicted import DATA_SHEETS, LAUNCH_SECONDS, kernel_macs
from engines.profile.tensorrt import layer_blocks
from engines.progress import BuildState, watch
from engines.rtx import (
    DEFAULT_COMPUTE_CAPABILITY,
    FP8_ADVICE,
    CompiledGraph,
    check_fp8,
    compile_graph,
    rtx_compiler,
)
from spd.bundle import GRAPHS, Bundle, open_bundle
from spd.commands.progress import Phases
from spd.errors import InputError

LARGEST = 10
"""Kernels that are shown one by one."""


@dataclass(frozen=True)
class KernelCount:
    """Some kernels, counted."""

    kernels: int
    bytes: int
    """What they read and write."""
    moving_kernels: int
    """Those of them that compute nothing: they copy, cast, reshape or transpose."""
    moving_bytes: int

    @classmethod
    def of(cls, kernels: Iterable[Kernel]) -> KernelCount:
        """Count kernels."""
        kernels = list(kernels)
        moving = [kernel for kernel in kernels if kernel.only_moves]
        return cls(len(kernels), _nbytes(kernels), len(moving), _nbytes(moving))


@dataclass(frozen=True)
class GraphKernels:
    """One graph, compiled."""

    graph: str
    """encoder or decoder."""
    points: int
    """K; 0 for an encoder."""
    compiled: CompiledGraph
    blocks: tuple[str, ...]
    """The block of each kernel."""
    macs: tuple[int, ...]
    """The multiply-accumulates of each kernel."""
    costs: Mapping[str, Cost]
    """What each block cannot do without, counted on the exported graph."""

    @property
    def total(self) -> KernelCount:
        """All kernels."""
        return KernelCount.of(self.compiled.kernels)

    @property
    def total_cost(self) -> Cost:
        """Of all blocks; what one block hands to the next counts for both."""
        costs = self.costs.values()
        return Cost(sum(cost.macs for cost in costs), sum(cost.bytes for cost in costs))

    def by_block(self) -> dict[str, KernelCount]:
        """The kernels of each block that has any, in the order in which blocks run."""
        pairs = list(zip(self.compiled.kernels, self.blocks, strict=True))
        return {
            block: KernelCount.of(kernel for kernel, own in pairs if own == block)
            for block in BLOCKS[self.graph]
            if block in self.blocks
        }

    def largest(self) -> list[tuple[Kernel, str]]:
        """The kernels that move the most bytes, each with its block."""
        pairs = zip(self.compiled.kernels, self.blocks, strict=True)
        return sorted(pairs, key=lambda pair: pair[0].nbytes, reverse=True)[:LARGEST]

    def predicted_ms(self) -> dict[str, float]:
        """Predicted milliseconds of one call by the name of the GPU."""
        pairs = list(zip(self.compiled.kernels, self.macs, strict=True))
        return {
            sheet.name: 1e3 * sum(sheet.seconds(kernel, kernel.nbytes, macs) for kernel, macs in pairs)
            for sheet in DATA_SHEETS
        }

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "graph": self.graph,
            "points": self.points,
            **asdict(self.total),
            "scratch_bytes": self.compiled.scratch_bytes,
            "plan_bytes": len(self.compiled.plan),
            "macs": self.total_cost.macs,
            "predicted_ms": {name: round(ms, 4) for name, ms in self.predicted_ms().items()},
            "blocks": [
                {
                    "block": block,
                    **asdict(count),
                    "macs": self.costs[block].macs,
                    "least_bytes": self.costs[block].bytes,
                }
                for block, count in self.by_block().items()
            ],
            "list": [
                {
                    "name": kernel.name,
                    "type": kernel.type,
                    "tactic": kernel.tactic,
                    "block": block,
                    "bytes": kernel.nbytes,
                    "macs": macs,
                    "only_moves": kernel.only_moves,
                    **{key: [asdict(t) for t in getattr(kernel, key)] for key in ("inputs", "constants", "outputs")},
                    "nodes": list(kernel.nodes),
                }
                for kernel, block, macs in zip(self.compiled.kernels, self.blocks, self.macs, strict=True)
            ],
        }


@dataclass(frozen=True)
class CompiledBundle:
    """Both graphs of a bundle, compiled."""

    bundle: Bundle
    precision: str
    compiler: str
    """Such as TensorRT for RTX 1.7.1.116."""
    compute_capability: str
    graphs: tuple[GraphKernels, ...]

    @property
    def counts(self) -> tuple[Counts, ...]:
        """Kernels and bytes of each graph."""
        return tuple(Counts(graph.graph, graph.total.kernels, graph.total.bytes) for graph in self.graphs)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        manifest = self.bundle.manifest
        return {
            "bundle": manifest.name,
            "preset": manifest.preset,
            "size": [manifest.height, manifest.width],
            "weights_sha256": manifest.weights_sha256,
            "precision": self.precision,
            "compiler": self.compiler,
            "compute_capability": self.compute_capability,
            "run": False,
            "predicted_for": {
                "launch_us": LAUNCH_SECONDS * 1e6,
                "gpus": [{**asdict(sheet), "half_tflops": sheet.half_tflops} for sheet in DATA_SHEETS],
            },
            "graphs": [graph.as_dict() for graph in self.graphs],
        }


def compile_bundle(
    path: Path, precision: str, points: int, phases: Phases, compute_capability: str = DEFAULT_COMPUTE_CAPABILITY
) -> CompiledBundle:
    """Compile both graphs of a bundle for one image and K points.

    Args:
        path: a bundle, or a folder that holds one.
        precision: any but int8, whose graphs are for CPUs.
        points: K.
        phases: is told what goes on.
        compute_capability: one of `engines.rtx.COMPUTE_CAPABILITIES`.

    Raises:
        BackendError: TensorRT for RTX or onnx is missing, or the capability is not one that it compiles for.
        BundleError: the bundle has no such precision, or a graph of it is missing or changed.
        ExportError: TensorRT for RTX cannot compile a graph.
        InputError: K is larger than the bundle takes.
        KeyboardInterrupt: Ctrl-C was pressed.
    """
    bundle = open_bundle(path)
    limit = bundle.manifest.max_points
    if points > limit:
        raise InputError(f"K = {points} is too large for {bundle.path}, which takes 1 to {limit} points a call")
    files = {graph: bundle.graph(graph, precision) for graph in GRAPHS}
    compiler = rtx_compiler(compute_capability)
    check_fp8((precision,), (compute_capability,), FP8_ADVICE)
    exported = {graph: CostedGraph(file, graph, points) for graph, file in files.items()}
    tensors = bundle.manifest.contract
    graphs = []
    for graph, file in files.items():
        count, state = points if graph == "decoder" else 0, BuildState()
        compiled = watch(
            f"compiling {graph} {precision} for compute capability {compute_capability}",
            partial(compile_graph, file, tensors.inputs(graph), state, count, compiler),
            state,
            phases,
        )
        nodes = exported[graph].blocks_and_macs()
        blocks, macs = layer_blocks(graph, compiled.kernels, nodes), kernel_macs(compiled.kernels, nodes)
        graphs.append(GraphKernels(graph, count, compiled, tuple(blocks), macs, exported[graph].costs()))
    return CompiledBundle(bundle, precision, compiler.name, compute_capability, tuple(graphs))


def _nbytes(kernels: Iterable[Kernel]) -> int:
    return sum(kernel.nbytes for kernel in kernels)
