"""Bundles on TensorRT: a scene's cache stays on the GPU; only images, points and depths travel.

`encode` does not wait for the GPU. A fault of its work comes up in the first call that does wait, and in every query of
the scene. K is padded to the largest of its bucket, which the engine's profile is made for: one graph per bucket, and
narrower buckets are the engine builder's choice. Points that fill up are (0, 0), and their depths are cut off.
"""

from __future__ import annotations

import weakref
from contextlib import ExitStack, suppress

import numpy as np
from numpy.typing import NDArray

from spd.bundle import Bundle
from spd.errors import CudaError
from spd.runtime.arrays import GpuArray
from spd.runtime.backend import Backend
from spd.runtime.tensorrt.cuda import Gpu, current_target
from spd.runtime.tensorrt.engine import Engine, Runtime
from spd.runtime.tensorrt.lane import Engines
from spd.runtime.tensorrt.lanes import Lanes
from spd.runtime.tensorrt.library import TENSORRT, Library, plan_records, warn_unproven
from spd.runtime.tensorrt.scenes import SceneMemories


class SceneCache:
    """The cache of a scene, in memory of its own until `release` is called or the last reference goes."""

    def __init__(self, backend: TensorRTBackend, scenes: SceneMemories) -> None:
        self.backend = backend
        """Its memory is gone when the backend is."""
        self.memory = scenes.take()
        self.release = weakref.finalize(self, scenes.give_back, self.memory)


class TensorRTBackend(Backend):
    """Both engines of one precision. Calls from several threads are safe; see `spd.runtime.tensorrt.lanes`."""

    takes_gpu_arrays = True

    def __init__(
        self,
        bundle: Bundle,
        precision: str | None,
        notes: list[str],
        library: Library = TENSORRT,
        device: int = 0,
    ) -> None:
        """Load the engines.

        Args:
            bundle: where the engines are.
            precision: fp32, fp16, bf16 or int8-fp16; by default the first of `library.PREFERENCE` that has engines.
            notes: gets a line when something works, but not as it should.
            library: whose engines.
            device: number of the GPU.

        Raises:
            BackendError: there are no engines, they are not for this machine, or TensorRT or a GPU is missing.
        """
        records = plan_records(bundle, precision, library)
        self.name = library.backend
        manifest = bundle.manifest
        self.precision = records["decoder"].precision
        self.height, self.width = manifest.height, manifest.width
        here = current_target(library, device)
        with ExitStack() as undo:
            gpu = Gpu(device)
            undo.callback(gpu.close)
            runtime = Runtime(library)
            encoder, decoder = (Engine(runtime, bundle, records[graph], here) for graph in ("encoder", "decoder"))
            engines = Engines(encoder, decoder, self.precision)
            self.max_points, self.cache_bytes = engines.buckets[-1], engines.cache_bytes
            self._gpu = gpu
            self._scenes = SceneMemories(gpu, engines.cache_bytes)
            self._lanes = Lanes(gpu, engines, self._scenes, notes)
            undo.pop_all()
        weakref.finalize(self, _close, gpu, self._lanes, self._scenes)
        if (line := warn_unproven(bundle, records.values(), library)) is not None:
            notes.append(line)

    def encode(self, image: NDArray[np.uint8] | GpuArray) -> SceneCache:
        """As in `Backend`.

        Raises:
            CudaError: a call failed; a DeviceMemoryError if there is no room for another scene.
            TensorRTError: a call failed.
        """
        self._gpu.use()
        cache = SceneCache(self, self._scenes)
        try:
            with self._lanes.use() as lane:
                lane.encode(image, cache.memory)
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
        if points.shape[1] == 0:
            return np.empty((1, 0), dtype=np.float32)
        self._gpu.use()
        with self._lanes.use(cache.memory.encoding) as lane:
            return lane.decode(cache.memory, points)

    def wait(self, cache: SceneCache) -> None:
        """As in `Backend`.

        Raises:
            CudaError: the encoder failed.
        """
        cache.memory.written.sync("the encoder")

    def release(self, cache: SceneCache) -> None:
        """As in `Backend`."""
        cache.release()

    def cuda_graphs(self) -> tuple[int, int]:
        """As in `Backend`."""
        return self._lanes.captured, self._lanes.not_captured

    def close(self) -> None:
        """As in `Backend`: frees what no scene is in; the rest goes with the last reference to the backend."""
        self._scenes.trim()


def _close(gpu: Gpu, lanes: Lanes, scenes: SceneMemories) -> None:
    if scenes.process.is_this:
        with suppress(CudaError):
            gpu.use()
        lanes.close()
        scenes.close()
        gpu.close()
