"""Bundles on TensorRT: the encoder writes the cache where the decoder reads it; only images, points and depths travel.

K is padded to the largest of its bucket, which is what the engine's profile is tuned for: one graph per bucket, and
narrower buckets are the engine builder's choice. Points that fill up are (0, 0), and their depths are cut off.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
from numpy.typing import NDArray

from spd.bundle import Bundle
from spd.runtime.backend import Backend, cache_nbytes
from spd.runtime.tensorrt.cuda import Gpu, current_target
from spd.runtime.tensorrt.engine import Engine, Runtime
from spd.runtime.tensorrt.lanes import Engines, Lane, Slot
from spd.runtime.tensorrt.library import TENSORRT, Library, plan_records, warn_unproven
from spd.runtime.tensorrt.slots import Slots


class SceneCache:
    """The cache of a scene: a slot, until `release` is called or the last reference goes."""

    def __init__(self, backend: TensorRTBackend, slots: Slots, slot: Slot) -> None:
        self.backend = backend
        """Its memory is gone when the backend is."""
        self.slot = slot
        self.release = weakref.finalize(self, slots.give_back, slot)


class TensorRTBackend(Backend):
    """Both engines of one precision. Calls from several threads are safe; see `spd.runtime.tensorrt.lanes`."""

    def __init__(self, bundle: Bundle, precision: str | None, notes: list[str], library: Library = TENSORRT) -> None:
        """Load the engines.

        Args:
            bundle: where the engines are.
            precision: fp32, fp16, bf16 or int8-fp16; by default the first of `library.PREFERENCE` that has engines.
            notes: gets a line when something works, but not as it should.
            library: whose engines.

        Raises:
            BackendError: there are no engines, they are not for this machine, or TensorRT or a GPU is missing.
        """
        records = plan_records(bundle, precision, library)
        self.name = library.backend
        manifest = bundle.manifest
        self.precision = records["decoder"].precision
        self.height, self.width = manifest.height, manifest.width
        self.cache_bytes = cache_nbytes(manifest.contract, self.precision)
        here = current_target(library)
        with ExitStack() as undo:
            gpu = Gpu()
            undo.callback(gpu.close)
            runtime = Runtime(library)
            encoder, decoder = (Engine(runtime, bundle, records[graph], here) for graph in ("encoder", "decoder"))
            self._buckets = [profile.points[2] for profile in decoder.profiles if profile.points is not None]
            self.max_points = self._buckets[-1]
            self._gpu = gpu
            self._slots = Slots(gpu, Engines(encoder, decoder, self.precision), notes)
            undo.pop_all()
        weakref.finalize(self, self._slots.close)
        if (line := warn_unproven(bundle, records.values(), library)) is not None:
            notes.append(line)

    def encode(self, image: NDArray[np.uint8]) -> SceneCache:
        """As in `Backend`.

        Raises:
            CudaError: a call failed; a DeviceMemoryError if there is no room for another scene.
            TensorRTError: a call failed.
        """
        self._gpu.use()
        cache = SceneCache(self, self._slots, self._slots.take())
        try:
            slot = cache.slot
            with _locked(slot.lane) as lane:
                lane.image_host.array[...] = image
                lane.stream.upload(lane.image_host, lane.image)
                lane.encoder.bind(slot.addresses)
                lane.encoder.enqueue(lane.stream)
                lane.stream.sync("the encoder")
        except BaseException:
            cache.release()
            raise
        return cache

    def decode(self, cache: SceneCache, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """As in `Backend`.

        Raises:
            CudaError: a call failed.
            TensorRTError: a call failed.
        """
        count = points.shape[1]
        if count == 0:
            return np.empty((1, 0), dtype=np.float32)
        bucket = next(i for i, largest in enumerate(self._buckets) if count <= largest)
        self._gpu.use()
        with _locked(cache.slot.lane) as lane:
            staging = lane.staging[bucket]
            staging.points_host.array[:, :count] = points
            staging.points_host.array[:, count:] = 0
            lane.stream.upload(staging.points_host, staging.points)
            self._slots.program(cache.slot, bucket).run(self._slots.capture)
            lane.stream.download(staging.depth, staging.depth_host)
            lane.stream.sync("the decoder")
            depth: NDArray[np.float32] = staging.depth_host.array[:, :count].copy()
        return depth

    def release(self, cache: SceneCache) -> None:
        """As in `Backend`."""
        cache.release()

    def close(self) -> None:
        """As in `Backend`: frees what no scene is in; the rest goes with the last reference to the backend."""
        self._slots.trim()


@contextmanager
def _locked(lane: Lane) -> Iterator[Lane]:
    """Use a lane alone; after a failure, wait until nothing of it is in use any more."""
    with lane.lock:
        try:
            yield lane
        except BaseException:
            lane.drain()
            raise
