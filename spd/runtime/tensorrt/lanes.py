"""What runs on the GPU for TensorRT, and where: lanes, slots and programs.

Slots. The cache of a scene lives in a slot: one piece of device memory whose addresses never move.

Lanes. A slot belongs to a lane. A lane is a stream, the scratch memory of its contexts and the staging buffers, used by
one call at a time (`Lane.lock`): calls on scenes of different lanes overlap, those in one lane queue.

Programs. Slot and bucket of K have a decoder context of their own, bound once to the slot's addresses, as NVIDIA asks
for one context per captured graph, not changed afterwards, and for one user at a time of shared scratch memory
(NVIDIA/TensorRT#3798, #2040). The first query is a plain enqueue, which TensorRT needs before a capture; the second
captures a CUDA graph; later ones launch it.
"""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass

import numpy as np

from spd.bundle.contract import TensorSpec
from spd.errors import CudaError
from spd.runtime.backend import nbytes_of
from spd.runtime.tensorrt.cuda import DeviceBuffer, Gpu, Graph, PinnedArray
from spd.runtime.tensorrt.engine import Engine

ALIGNMENT = 256
"""Bytes; what TensorRT asks of every address."""


@dataclass(frozen=True)
class Engines:
    """Both engines of one precision."""

    encoder: Engine
    decoder: Engine
    precision: str


class Staging:
    """Where the points of one bucket go up and their depths come down, [1, K] with K the bucket's largest."""

    def __init__(self, gpu: Gpu, engines: Engines, points: int, undo: ExitStack) -> None:
        engine, precision = engines.decoder, engines.precision
        self.size = points

        def device(spec: TensorSpec) -> DeviceBuffer:
            buffer = gpu.allocate(nbytes_of(spec, precision, points), f"tensor {spec.name}")
            undo.callback(buffer.close)
            return buffer

        def host(spec: TensorSpec) -> PinnedArray:
            array = gpu.pinned(spec.resolved(1, points), np.float32, f"tensor {spec.name}")
            undo.callback(array.close)
            return array

        self.points, self.points_host = device(engine.inputs[-1]), host(engine.inputs[-1])
        depth, *others = engine.outputs
        self.depth, self.depth_host = device(depth), host(depth)
        self.addresses = {engine.inputs[-1].name: self.points.address, depth.name: self.depth.address}
        # `routes` is nobody's business here, but TensorRT wants to write it somewhere.
        self.addresses |= {spec.name: device(spec).address for spec in others}


class Lane:
    """A stream and what the calls in it share. Hold `lock` while using any of it."""

    def __init__(self, gpu: Gpu, engines: Engines) -> None:
        """Allocate everything a lane needs.

        Raises:
            CudaError: there is no room, or a call failed.
            TensorRTError: a call failed.
        """
        self.lock = threading.Lock()
        self.slots = 0
        """How many slots belong to it."""
        self.programs: OrderedDict[tuple[int, int], Program] = OrderedDict()
        """By slot and bucket, least recently used first."""
        encoder, decoder = engines.encoder, engines.decoder
        with ExitStack() as undo:
            self.stream = gpu.stream()
            undo.callback(self.stream.close)
            wanted = [encoder.scratch_bytes(0), *map(decoder.scratch_bytes, range(len(decoder.profiles)))]
            self.scratch = gpu.allocate(max(wanted), "scratch memory of the engines")
            undo.callback(self.scratch.close)
            spec = encoder.inputs[0]
            self.image = gpu.allocate(nbytes_of(spec, engines.precision), f"tensor {spec.name}")
            undo.callback(self.image.close)
            self.image_host = gpu.pinned(spec.resolved(1), np.uint8, f"tensor {spec.name}")
            undo.callback(self.image_host.close)
            self.encoder = encoder.context(0, self.scratch, self.stream)
            self.encoder.set_shapes({spec.name: spec.resolved(1)})
            for output in encoder.outputs:
                self.encoder.check_shape(output.name, output.resolved(1))
            self.encoder.bind({spec.name: self.image.address})
            self.staging = [
                Staging(gpu, engines, profile.points[2], undo) for profile in decoder.profiles if profile.points
            ]
            self._undo = undo.pop_all()

    def drain(self) -> None:
        """Wait, after a failure, until nothing uses the buffers any more."""
        with suppress(CudaError):
            self.stream.sync("a lane")

    def close(self) -> None:
        """Free everything; no call may be running."""
        for program in self.programs.values():
            program.close()
        self.programs.clear()
        self._undo.close()


class Slot:
    """Room for one cache: a piece of device memory and where each tensor lies in it."""

    def __init__(self, index: int, lane: Lane, gpu: Gpu, engines: Engines) -> None:
        self.index = index
        self.lane = lane
        sizes = [nbytes_of(spec, engines.precision) for spec in engines.encoder.outputs]
        ends = list(itertools.accumulate(-(-size // ALIGNMENT) * ALIGNMENT for size in sizes))
        self.buffer = gpu.allocate(ends[-1], "the cache of a scene")
        self.addresses = {
            spec.name: self.buffer.address + start
            for spec, start in zip(engines.encoder.outputs, [0, *ends[:-1]], strict=True)
        }


class Program:
    """The decoder for one slot and one bucket."""

    def __init__(self, slot: Slot, bucket: int, engine: Engine) -> None:
        """Make the context and bind it for good.

        Raises:
            DeviceMemoryError: there is no room for another context.
            TensorRTError: a call failed.
        """
        lane = slot.lane
        staging = lane.staging[bucket]
        self._lane = lane
        self._context = engine.context(bucket, lane.scratch, lane.stream)
        self._context.set_shapes({spec.name: spec.resolved(1, staging.size) for spec in engine.inputs})
        for spec in engine.outputs:
            self._context.check_shape(spec.name, spec.resolved(1, staging.size))
        self._context.bind({**slot.addresses, **staging.addresses})
        self._what = f"{engine.name} at K={staging.size}"
        self._warm = False
        self._graph: Graph | None = None

    def run(self, capture: Callable[[Lane, Callable[[], None], str], Graph | None]) -> None:
        """Put one run into the lane's stream; `capture` makes a graph of what it is given, or declines.

        Raises:
            CudaError: the launch failed.
            TensorRTError: the enqueue failed.
        """
        if self._graph is None and self._warm:
            self._graph = capture(self._lane, self._enqueue, self._what)
        if self._graph is not None:
            self._graph.launch(self._lane.stream)
            return
        self._enqueue()
        self._warm = True

    def close(self) -> None:
        """Free graph and context."""
        if self._graph is not None:
            self._graph.close()
        self._graph = None
        del self._context

    def _enqueue(self) -> None:
        self._context.enqueue(self._lane.stream)
