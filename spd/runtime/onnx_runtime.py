"""Bundles on ONNX Runtime, CPU or CUDA. The cache is kept as device values that never visit the host."""

from __future__ import annotations

import io
import logging
from contextlib import redirect_stdout
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spd.bundle import Bundle
from spd.errors import BackendError, one_line
from spd.runtime.backend import cache_nbytes
from spd.runtime.machine import cores
from spd.runtime.packages import import_onnxruntime
from spd.runtime.tiled import TiledBackend

onnxruntime = import_onnxruntime()

PROVIDERS: dict[str, list[Any]] = {
    "onnxruntime-cpu": ["CPUExecutionProvider"],
    # TF32, which is on by default, rounds the operands of float32 products to 10 bits.
    "onnxruntime-cuda": [("CUDAExecutionProvider", {"use_tf32": "0"})],
}
"""What a session of each backend is given as `providers`."""

logger = logging.getLogger("spd")


class OnnxRuntimeBackend(TiledBackend):
    """Both graphs of a bundle in ONNX Runtime sessions, which are safe to run from several threads."""

    def __init__(self, bundle: Bundle, name: str, precision: str, threads: int | None, device: int = 0) -> None:
        """Load the graphs.

        Args:
            bundle: where the graphs are.
            name: onnxruntime-cpu or onnxruntime-cuda; `spd.runtime.available` says whether it can run here.
            precision: one of `spd.bundle.contract.PRECISIONS`.
            threads: CPU threads for one call, by default all cores that the process may use.
            device: number of the GPU, for onnxruntime-cuda.

        Raises:
            BackendError: the provider cannot run here, or the threads cannot be started.
            BundleError: a graph is missing or changed.
        """
        self.name, self.precision = name, precision
        self.height, self.width = bundle.manifest.height, bundle.manifest.width
        self.max_points = bundle.manifest.max_points
        self.cache_bytes = cache_nbytes(bundle.manifest.contract, precision)
        for spec in bundle.manifest.contract.decoder_outputs:
            if spec.name == "routes":
                self.routed_tokens = int(spec.shape[-1])
        self._device = "cuda" if name == "onnxruntime-cuda" else "cpu"
        self._number = device
        if self._device == "cuda":
            _preload()
        threads = threads or cores()  # ONNX Runtime would count the machine's, also in a container that has few
        self.start_tilers(threads if self._device == "cpu" else 1)
        self.check_threads(threads, pools=2)  # the encoder's, and those that decode tiles
        self._encoder = self._session(bundle, "encoder", threads)
        self._decoder = self._session(bundle, "decoder", threads if self.at_once == 1 else 1)
        self._cache_names = [output.name for output in self._encoder.get_outputs()]

    def encode(self, image: NDArray[np.uint8]) -> dict[str, Any]:
        """As in `Backend`."""
        binding = self._encoder.io_binding()
        binding.bind_cpu_input("image", image)
        for name in self._cache_names:
            binding.bind_output(name, self._device, self._number)
        self._run(self._encoder, binding)
        return dict(zip(self._cache_names, binding.get_outputs(), strict=True))

    def decode_tile(self, cache: dict[str, Any], points: NDArray[np.float32]) -> NDArray[np.float32]:
        """As in `TiledBackend`."""
        return self._query(cache, points, "depth")

    def routes(self, cache: dict[str, Any], points: NDArray[np.float32]) -> NDArray[np.int64]:
        """As in `Backend`."""
        return self._query(cache, points, "routes")

    def _query(self, cache: dict[str, Any], points: NDArray[np.float32], output: str) -> NDArray[Any]:
        binding = self._decoder.io_binding()
        for name, value in cache.items():
            binding.bind_ortvalue_input(name, value)
        binding.bind_cpu_input("points", points)
        binding.bind_output(output, "cpu")
        self._run(self._decoder, binding)
        answer: NDArray[Any] = binding.get_outputs()[0].numpy()
        return answer

    def _run(self, session: Any, binding: Any) -> None:
        try:
            session.run_with_iobinding(binding)
        except Exception as error:  # its exceptions share no base class
            raise BackendError(f"{self.name} failed: {one_line(error)}") from error

    def _providers(self) -> list[Any]:
        if self._number == 0:
            return PROVIDERS[self.name]
        return [(name, {**options, "device_id": str(self._number)}) for name, options in PROVIDERS[self.name]]

    def _session(self, bundle: Bundle, graph: str, threads: int) -> Any:
        path = bundle.graph(graph, self.precision)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors only; a warning per cast that it inserts helps nobody
        # Threads that wait for the next encoding in a loop would take the cores from the queries meanwhile: 64 points
        # right after an encoding took 17 ms, not 9.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.intra_op_num_threads = threads
        try:
            # Without a fallback of its own, which it would announce on stdout, where results go.
            session = onnxruntime.InferenceSession(str(path), options, providers=self._providers(), enable_fallback=0)
        except Exception as error:
            raise BackendError(f"{self.name} cannot load {path}: {one_line(error)}") from error
        if self._device == "cuda" and session.get_providers()[0] != "CUDAExecutionProvider":
            raise BackendError(
                f"{self.name} cannot run here: ONNX Runtime {onnxruntime.__version__} fell back to "
                f"{session.get_providers()[0]}; its CUDA and cuDNN versions must match those installed"
            )
        return session


def _preload() -> None:
    """Find CUDA and cuDNN in the nvidia-* packages that torch or onnxruntime-gpu[cuda,cudnn] brought along."""
    printed = io.StringIO()
    with redirect_stdout(printed):  # it prints what it does not find; stdout is for results
        onnxruntime.preload_dlls()
    for line in printed.getvalue().splitlines():
        logger.info("onnxruntime: %s", line)
