"""Layer times from TensorRT's own profiler, and the blocks that its layers compute."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.executor import Arrays, Executor
from engines.inspector import plan_layers
from engines.layers import Layer
from engines.profile.blocks import OTHER, block_of_name, blocks_by_neighbours
from engines.profile.cost import CostedGraph
from engines.profile.times import WARM_UP, GraphTimes, OperatorTimes, Settings, timed
from spd.bundle import Bundle
from spd.bundle.plans import ENGINE_BACKENDS, PlanRecord, Target
from spd.errors import BackendError, InputError
from spd.runtime.tensorrt.backend import TensorRTBackend
from spd.runtime.tensorrt.cuda import DeviceBuffer, Gpu, Stream, current_target
from spd.runtime.tensorrt.engine import Context, Engine, Runtime
from spd.runtime.tensorrt.library import LIBRARIES, Library, plan_records

Layers = dict[str, tuple[str, str]]
"""Type and block of each layer by its name."""

Nodes = Mapping[str, tuple[str, int]]
"""Block and multiply-accumulates of each ONNX node by its name."""


def profile_tensorrt(
    bundle: Bundle, settings: Settings, image: NDArray[np.uint8], points: NDArray[np.float32]
) -> tuple[GraphTimes, GraphTimes]:
    """Run both engines of a bundle with TensorRT's profiler, one layer after the other.

    Args:
        bundle: a bundle with engines in the precision.
        settings: what to measure.
        image: uint8 [1, H, W, 3].
        points: float32 [1, K, 2], (u, v) in pixels of the image; padded to the bucket's K, as applications do.

    Raises:
        BackendError: there are no engines, they do not fit this machine, or TensorRT, CUDA or onnx is missing or fails.
        BundleError: a graph is missing or changed.
        InputError: there are more points than the largest bucket takes.
    """
    library = LIBRARIES[ENGINE_BACKENDS[settings.backend]]
    records = plan_records(bundle, settings.precision, library)
    sizes = [profile.points[2] for profile in records["decoder"].profiles if profile.points is not None]
    if points.shape[1] > sizes[-1]:
        raise InputError(
            f"K = {points.shape[1]} is in no bucket of the engines of {bundle.path}, which end at "
            f"{', '.join(map(str, sizes))}; take 1 to {sizes[-1]}"
        )
    backend = TensorRTBackend(bundle, settings.precision, [], library)

    def encode() -> None:
        cache = backend.encode(image)
        backend.wait(cache)
        backend.release(cache)

    encoder_calls = timed(encode, settings.runs)
    kept = backend.encode(image)
    decoder_calls = timed(lambda: backend.decode(kept, points), settings.runs)
    backend.release(kept)
    backend.close()

    bucket, size = next((i, size) for i, size in enumerate(sizes) if points.shape[1] <= size)
    padded = np.pad(points, ((0, 0), (0, size - points.shape[1]), (0, 0)))
    encoder, cache = _time_layers(bundle, records["encoder"], library, settings, 0, {"image": image})
    decoder, _ = _time_layers(bundle, records["decoder"], library, settings, bucket, {**cache, "points": padded})
    return GraphTimes("encoder", encoder, encoder_calls, 0), GraphTimes("decoder", decoder, decoder_calls, size)


class ProfiledEngine(Engine):
    """An engine whose contexts report how long each of their layers takes."""

    def __init__(self, runtime: Runtime, bundle: Bundle, record: PlanRecord, here: Target) -> None:
        """As `Engine`."""
        super().__init__(runtime, bundle, record, here)
        self.runs: list[dict[str, float]] = []
        """Seconds by layer, one entry per context."""
        self._profilers: list[Any] = []  # TensorRT does not own them

    def context(self, profile: int, scratch: DeviceBuffer, stream: Stream) -> Context:
        """As in `Engine`; its one run goes into `runs`."""
        made = super().context(profile, scratch, stream)
        self.runs.append({})
        self._profilers.append(_make_profiler(self.runtime.trt, self.runs[-1]))
        made._context.profiler = self._profilers[-1]
        return made

    def layers(self) -> tuple[Layer, ...]:
        """What the inspector says of the layers.

        Raises:
            TensorRTError: the inspector gives no layers, which a plan built by spd-build has.
        """
        return plan_layers(self.runtime, self._engine, self.name)


def _make_profiler(trt: Any, seconds: dict[str, float]) -> Any:
    class Profiler(trt.IProfiler):  # type: ignore[misc] # the base class is Any where TensorRT is not installed
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            seconds[layer_name] = seconds.get(layer_name, 0.0) + ms * 1e-3

    return Profiler()


def _time_layers(
    bundle: Bundle, record: PlanRecord, library: Library, settings: Settings, profile: int, inputs: Arrays
) -> tuple[tuple[OperatorTimes, ...], Arrays]:
    """The layers of one engine with their times, and its outputs."""
    graph = record.graph
    nodes = CostedGraph(bundle.graph(graph, settings.precision), graph, settings.points).blocks_and_macs()
    with ExitStack() as stack:
        gpu = Gpu()
        stack.callback(gpu.close)
        engine = ProfiledEngine(Runtime(library), bundle, record, current_target(library))
        executor = Executor(gpu, engine, settings.precision)
        stack.callback(executor.close)
        for _ in range(WARM_UP + settings.runs):
            outputs = executor.run(profile, inputs)
        found = engine.layers()
        blocks = layer_blocks(graph, found, nodes)
        layers = {layer.name: (layer.type, block) for layer, block in zip(found, blocks, strict=True)}
        return layer_times(engine.runs[WARM_UP:], layers, record.file), outputs


def layer_blocks(graph: str, layers: Sequence[Layer], nodes: Nodes) -> list[str]:
    """The block of each layer: by its ONNX nodes or its name, else that of the layer that reads what it writes.

    Args:
        graph: encoder or decoder.
        layers: in TensorRT's order.
        nodes: of the exported graph.
    """
    found = [block_of_layer(graph, layer, nodes) for layer in layers]
    own = [None if block == OTHER else block for block in found]
    tensors = [([tensor.name for tensor in x.inputs], [tensor.name for tensor in x.outputs]) for x in layers]
    return blocks_by_neighbours(own, tensors)


def block_of_layer(graph: str, layer: Layer, nodes: Nodes) -> str:
    """The block of a layer, by the ONNX nodes in it, else by its name.

    A layer fused from nodes of several blocks belongs to the one with the most arithmetic in it, or with the most nodes
    if none has any.
    """
    macs: dict[str, int] = {}
    count: Counter[str] = Counter()
    for node in layer.nodes:
        block, of_node = nodes.get(node, (OTHER, 0))
        if block != OTHER:
            macs[block] = macs.get(block, 0) + of_node
            count[block] += 1
    if macs:
        return max(reversed(macs), key=lambda block: (macs[block], count[block]))
    return block_of_name(graph, layer.name) or OTHER


def layer_times(runs: Sequence[Mapping[str, float]], layers: Layers, file: str) -> tuple[OperatorTimes, ...]:
    """The layers that ran, in order, with their times in every run.

    Raises:
        BackendError: nothing was reported, or the runs differ.
    """
    names = list(runs[0])
    if not names or any(list(run) != names for run in runs):
        raise BackendError(
            f"the profiler of TensorRT reports {sorted({len(run) for run in runs})} layers of {file} in its runs, "
            "expected the same in each; try another version"
        )
    return tuple(
        OperatorTimes(name, *layers.get(name, ("", OTHER)), tuple(run[name] for run in runs)) for name in names
    )
