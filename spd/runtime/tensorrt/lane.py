"""A lane: what runs on the GPU for TensorRT, one call at a time.

It has a stream, scratch memory, fixed buffers, one context for the encoder and one for each of the decoder's buckets of
K. A context is bound once, as NVIDIA asks for one context for each captured graph, not changed afterwards, and for one
user at a time of shared scratch memory (NVIDIA/TensorRT#3798, #2040). Its first run is a plain enqueue, which TensorRT
needs before a capture. The second captures a CUDA graph, later ones launch it.

Scenes belong to no lane. The encoder writes the lane's cache buffer, which is then copied to the scene's memory. Before
a query it is copied back, unless the lane holds it still. A copy of the 10 MB that `tiny` has in float16 takes about
20 us at 1 TB/s. Binding the scene's memory instead would cost a capture, or 200 launches, for every scene.

For `tiny` at 480x640 in float16 a lane takes 66 MB: 55 MB of scratch memory, which the decoder needs at 1,024 points by
TensorRT for RTX, and the cache and image. The encoder needs 34 MB of the same scratch memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import DTypeLike, NDArray

from spd.bundle.contract import TensorSpec
from spd.errors import CudaError
from spd.runtime.arrays import GpuArray
from spd.runtime.backend import nbytes_of
from spd.runtime.tensorrt.cuda import DeviceBuffer, Gpu, Graph, PinnedArray, Stream
from spd.runtime.tensorrt.engine import Context, Engine
from spd.runtime.tensorrt.scenes import Encoding, SceneMemory

ALIGNMENT = 256
"""Bytes; what TensorRT asks of every address."""


class Engines:
    """Both engines of one precision, and how their cache lies in one piece of memory."""

    def __init__(self, encoder: Engine, decoder: Engine, precision: str) -> None:
        self.encoder, self.decoder, self.precision = encoder, decoder, precision
        self.buckets = tuple(profile.points[2] for profile in decoder.profiles if profile.points is not None)
        """K that the decoder runs with, rising; fewer points are padded."""
        sizes = [-(-nbytes_of(spec, precision) // ALIGNMENT) * ALIGNMENT for spec in encoder.outputs]
        *offsets, self.cache_bytes = itertools.accumulate(sizes, initial=0)
        self.offsets = {spec.name: offset for spec, offset in zip(encoder.outputs, offsets, strict=True)}
        """Bytes from the start of a cache to each of its tensors."""
        self.scratch_bytes = max(
            encoder.scratch_bytes(0), *(decoder.scratch_bytes(profile) for profile in range(len(self.buckets)))
        )
        """Bytes that the contexts of a lane need, one at a time."""


Work = Callable[[], None]
"""Puts something into a stream."""
Capture = Callable[[Stream, Work, str], Graph | None]
"""Makes a graph of the work of that name; None if that is not possible."""


class Program:
    """Work that a lane repeats: enqueued at first, launched as a graph later."""

    def __init__(self, stream: Stream, work: Work, what: str, capture: Capture) -> None:
        self.what = what
        self._stream, self._work, self._capture = stream, work, capture
        self._graph: Graph | None = None
        self._warm = self._tried = False

    def run(self) -> None:
        """Put the work into the stream.

        Raises:
            CudaError: a call failed.
            TensorRTError: the enqueue failed.
        """
        if self._warm and not self._tried:
            self._tried = True
            self._graph = self._capture(self._stream, self._work, self.what)
        if self._graph is not None:
            self._graph.launch(self._stream)
        else:
            self._work()
            self._warm = True

    def close(self) -> None:
        """Free the graph, and what the work refers to."""
        if self._graph is not None:
            self._graph.close()
        del self._graph, self._work


@dataclass(frozen=True)
class Decoder:
    """The decoder for one bucket of K, in one lane."""

    size: int
    """K that it runs with."""
    points_host: PinnedArray
    """[1, K, 2], where its program takes the points from."""
    depth_host: PinnedArray
    """[1, K], where its program leaves the depths."""
    program: Program


class Lane:
    """A stream and everything that calls in it use. One thread at a time."""

    def __init__(self, gpu: Gpu, engines: Engines, capture: Capture) -> None:
        """Allocate everything that a lane needs, and make its contexts.

        Raises:
            CudaError: there is no room, or a call failed.
            TensorRTError: a call failed.
        """
        self.holds: Encoding | None = None
        """What is in the lane's cache buffer."""
        self._gpu, self._engines, self._capture = gpu, engines, capture
        self._unfinished: list[Encoding] = []
        """Encodings that the stream runs or waits for, and whose faults the host does not know yet."""
        self._undo = ExitStack()
        try:
            self._stream = gpu.stream()
            self._undo.callback(self._stream.close)
            self._uploaded = gpu.event()
            self._undo.callback(self._uploaded.close)
            self._scratch = self._allocate(engines.scratch_bytes, "scratch memory of the engines")
            self._cache = self._allocate(engines.cache_bytes, "the cache of a lane")
            spec = engines.encoder.inputs[0]
            self._image, self._image_host = self._allocate_pair(spec, np.uint8)
            context = self._context(engines.encoder, 0, {spec.name: self._image.address})
            self._encoder = self._program(partial(context.enqueue, self._stream), engines.encoder.name)
            self._decoders = [self._decoder(profile, size) for profile, size in enumerate(engines.buckets)]
        except BaseException:
            self._undo.close()
            raise

    def encode(self, image: NDArray[np.uint8] | GpuArray, memory: SceneMemory) -> None:
        """Begin to compute the cache of an image, uint8 [1, height, width, 3]; the host waits only for its staging.

        One on a GPU is copied in the lane's stream. Work in its own stream is ordered before that, and after it.

        Raises:
            CudaError: a call failed, or earlier work in this lane.
            TensorRTError: a call failed.
        """
        if self._unfinished:
            # The last image is on the GPU, so that the encodings before it are done.
            self._wait(self._uploaded.sync, pending=1)
        self.holds = None
        if isinstance(image, GpuArray):
            self._stream.copy_array(image, self._image)
        else:
            self._image_host.array[...] = image
            self._stream.copy(self._image_host, self._image)
        self._stream.record(self._uploaded)
        self._unfinished.append(memory.encoding)
        self._encoder.run()
        self._stream.wait(memory.written)  # another lane may have written to it for a scene that is closed
        self._stream.copy(self._cache, memory.buffer)
        self._stream.record(memory.written)
        self.holds = memory.encoding

    def decode(self, memory: SceneMemory, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """Depths [1, K] of points [1, K, 2] of a scene, K at most the largest bucket's.

        Raises:
            CudaError: a call failed, or earlier work in this lane, or the scene's encoding.
            TensorRTError: a call failed.
        """
        count = points.shape[1]
        encoding = memory.encoding
        if encoding.fault is not None:
            raise CudaError(f"the image of this scene could not be encoded: {encoding.fault}")
        if self.holds is not encoding:
            self.holds = None
            self._stream.wait(memory.written)
            self._stream.copy(memory.buffer, self._cache)
            self.holds = encoding
            if not encoding.finished:
                self._unfinished.append(encoding)
        decoder = next(decoder for decoder in self._decoders if count <= decoder.size)
        decoder.points_host.array[:, :count] = points
        decoder.points_host.array[:, count:] = 0
        decoder.program.run()
        self._wait(self._stream.sync, decoder.program.what)
        depth: NDArray[np.float32] = decoder.depth_host.array[:, :count].copy()
        return depth

    def drain(self) -> None:
        """Wait, after a failure, until nothing uses the buffers any more."""
        self.holds = None
        with suppress(CudaError):
            self._wait(self._stream.sync)

    def close(self) -> None:
        """Free everything; no call may be running."""
        self._undo.close()

    def _wait(self, wait: Callable[[str], None], *what: str, pending: int = 0) -> None:
        """Wait on the host. Then the faults of all encodings are known, but for the last `pending` ones."""
        known = self._unfinished[: len(self._unfinished) - pending]
        names = [self._encoder.what] if self._unfinished else []
        try:
            wait(" or ".join([*names, *what]))
        except CudaError as error:
            for encoding in self._unfinished:
                encoding.fault = str(error)
            self._unfinished.clear()
            raise
        for encoding in known:
            encoding.finished = True
        del self._unfinished[: len(known)]

    def _decoder(self, profile: int, size: int) -> Decoder:
        engine, stream = self._engines.decoder, self._stream
        depth_spec, *others = engine.outputs
        points, points_host = self._allocate_pair(engine.inputs[-1], np.float32, size)
        depth, depth_host = self._allocate_pair(depth_spec, np.float32, size)
        addresses = {engine.inputs[-1].name: points.address, depth_spec.name: depth.address}
        # `routes` is nobody's business here, but TensorRT wants to write it somewhere.
        addresses |= {spec.name: self._allocate_tensor(spec, size).address for spec in others}
        context = self._context(engine, profile, addresses, size)

        def work() -> None:
            stream.copy(points_host, points)
            context.enqueue(stream)
            stream.copy(depth, depth_host)

        return Decoder(size, points_host, depth_host, self._program(work, f"{engine.name} at K={size}"))

    def _context(self, engine: Engine, profile: int, addresses: dict[str, int], points: int = 0) -> Context:
        """A context that is bound to the cache buffer and to the other addresses."""
        context = engine.context(profile, self._scratch, self._stream)
        context.set_shapes({spec.name: spec.resolved(1, points) for spec in engine.inputs})
        for spec in engine.outputs:
            context.check_shape(spec.name, spec.resolved(1, points))
        cache = {name: self._cache.address + offset for name, offset in self._engines.offsets.items()}
        context.bind({**cache, **addresses})
        return context

    def _program(self, work: Work, what: str) -> Program:
        program = Program(self._stream, work, what, self._capture)
        self._undo.callback(program.close)
        return program

    def _allocate_pair(self, spec: TensorSpec, dtype: DTypeLike, points: int = 0) -> tuple[DeviceBuffer, PinnedArray]:
        """A tensor on the GPU, and the same in pinned memory."""
        pinned = self._gpu.pinned(spec.resolved(1, points), dtype, f"tensor {spec.name}")
        self._undo.callback(pinned.close)
        return self._allocate_tensor(spec, points), pinned

    def _allocate_tensor(self, spec: TensorSpec, points: int = 0) -> DeviceBuffer:
        return self._allocate(nbytes_of(spec, self._engines.precision, points), f"tensor {spec.name}")

    def _allocate(self, nbytes: int, what: str) -> DeviceBuffer:
        buffer = self._gpu.allocate(nbytes, what)
        self._undo.callback(buffer.close)
        return buffer
