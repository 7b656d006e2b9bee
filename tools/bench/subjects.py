"""The rows' runtimes. Each imports its own packages only, since they count as memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spd.errors import BackendError
from spd.runtime.packages import import_openvino
from tools.bench.rows import Row
from tools.bench.subject import Inputs, Subject, peak_mb


def make_subject(row: Row, graphs: Path, inputs: Inputs) -> Subject:
    """The subject of a row.

    Args:
        row: of `ROWS`, but not one of torch, whose network is no file.
        graphs: a bundle, or what `tools.bench.graphs` made for the network.
        inputs: for one image.

    Raises:
        SPDError: it cannot run here.
    """
    if row.network == "spd":
        return Deployed(row, graphs, inputs)
    if row.network == "literal":
        files = {graph: graphs / f"{graph}.onnx" for graph in ("encoder", "decoder")}
        return OnnxRuntime(row.runtime, files, inputs.image, inputs)
    path, image = graphs / ("dense.int8.onnx" if row.eight_bits else "dense.onnx"), dense_image(row.network, inputs)
    if row.runtime == "openvino":
        return DenseOpenVino(path, row.precision, image, inputs.threads)
    return OnnxRuntime(row.runtime, {"encoder": path}, image, inputs)


def dense_size(network: str, height: int, width: int) -> tuple[int, int]:
    """The size nearest to an image's whose sides are multiples of what a dense network takes: 14 or 32 pixels."""
    from spd.baselines.depth_anything_weights import PATCH

    step = PATCH if network == "dav2s" else 32
    return step * max(1, round(height / step)), step * max(1, round(width / step))


def dense_image(network: str, inputs: Inputs) -> NDArray[np.float32]:
    """What a dense network is timed on, float32 [B, 3, h, w]: numbers of the size that normalised photos have."""
    shape = len(inputs.image), 3, *dense_size(network, *inputs.image.shape[1:3])
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


class Deployed(Subject):
    """A bundle on one of SPD's own backends, on a GPU in float16 if it has that."""

    def __init__(self, row: Row, path: Path, inputs: Inputs) -> None:
        from spd.bundle import open_bundle
        from spd.runtime.backend import Backend

        bundle = open_bundle(path)
        self._inputs = inputs
        self._backend: Backend
        if row.runtime == "tensorrt":
            from spd.runtime.tensorrt.backend import TensorRTBackend

            self._backend = TensorRTBackend(bundle, None, [])
        elif row.runtime == "openvino":
            from spd.runtime.openvino_backend import OpenVinoBackend

            self._backend = OpenVinoBackend(bundle, row.precision, inputs.threads)
        else:
            from spd.runtime.onnx_runtime import OnnxRuntimeBackend

            half = row.runtime == "onnxruntime-cuda" and "fp16" in bundle.manifest.precisions
            precision = "fp16" if half else row.precision
            self._backend = OnnxRuntimeBackend(bundle, row.runtime, precision, inputs.threads)
        self.scene_mb = None if self._backend.cache_bytes is None else self._backend.cache_bytes / 1e6
        self._cache: Any = None

    def encode(self) -> None:
        """As in `Subject`."""
        self._cache = self._backend.encode(self._inputs.image)
        self._backend.wait(self._cache)

    def decode(self, count: int) -> NDArray[np.float32]:
        """As in `Subject`."""
        points, step = self._inputs.first(count), self._backend.max_points
        starts = range(0, count, step)
        return np.concatenate([self._backend.decode(self._cache, points[:, i : i + step]) for i in starts], axis=1)


class OnnxRuntime(Subject):
    """Graphs on ONNX Runtime, bound as SPD's backend binds them. The encoder's outputs are the decoder's inputs."""

    def __init__(self, name: str, files: dict[str, Path], image: NDArray[Any], inputs: Inputs) -> None:
        import onnxruntime

        from spd.runtime.onnx_runtime import PROVIDERS

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = inputs.threads
        options.add_session_config_entry("session.force_spinning_stop", "1")  # as SPD's backend does
        self._device = "cuda" if name == "onnxruntime-cuda" else "cpu"
        if self._device == "cuda":
            onnxruntime.preload_dlls()
        self._sessions = {
            graph: onnxruntime.InferenceSession(str(path), options, providers=PROVIDERS[name], enable_fallback=0)
            for graph, path in files.items()
        }
        self._image, self._inputs = image, inputs
        self._cache: dict[str, Any] = {}

    def encode(self) -> None:
        """As in `Subject`."""
        session = self._sessions["encoder"]
        binding = session.io_binding()
        binding.bind_cpu_input("image", self._image)
        names = [output.name for output in session.get_outputs()]
        for name in names:
            binding.bind_output(name, self._device if "decoder" in self._sessions else "cpu")
        session.run_with_iobinding(binding)
        self._cache = dict(zip(names, binding.get_outputs(), strict=True))
        if "decoder" in self._sessions:
            self.scene_mb = sum(value.tensor_size_in_bytes() for value in self._cache.values()) / 1e6

    def decode(self, count: int) -> NDArray[np.float32]:
        """As in `Subject`."""
        session = self._sessions["decoder"]
        binding = session.io_binding()
        for name, value in self._cache.items():
            binding.bind_ortvalue_input(name, value)
        binding.bind_cpu_input("points", self._inputs.first(count))
        binding.bind_output("depth", "cpu")
        session.run_with_iobinding(binding)
        depth: NDArray[np.float32] = binding.get_outputs()[0].numpy()
        return depth


class DenseOpenVino(Subject):
    """A dense network on OpenVINO's CPU plugin, set up as SPD's own backend sets up its encoder."""

    def __init__(self, path: Path, precision: str, image: NDArray[np.float32], threads: int) -> None:
        openvino = import_openvino()
        core = openvino.Core()
        half = precision.endswith("bf16")
        if half and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise BackendError("this CPU has no bfloat16 (AVX512_BF16 or AMX)")
        settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if half else "f32",
            "EXECUTION_MODE_HINT": "PERFORMANCE" if half else "ACCURACY",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": "1",
            "ENABLE_CPU_PINNING": False,
        }
        self._request = core.compile_model(str(path), "CPU", settings).create_infer_request()
        self._image = image
        self._request.set_input_tensor(openvino.Tensor(self._image, shared_memory=True))

    def encode(self) -> None:
        """As in `Subject`."""
        self._request.infer()


class MatrixProduct(Subject):
    """A large matrix product, as `spd-profile` measures the machine's rate: the best of half a second."""

    SIDE = 1024
    """Rows and columns that `turn`'s milliseconds are for, whatever was multiplied."""

    def __init__(self, backend: str, threads: int) -> None:
        from engines.profile.times import Settings

        precision = "fp16" if backend == "onnxruntime-cuda" else "fp32"
        self._settings = Settings(backend, precision, points=1, runs=1, threads=threads)
        self._flops = 0.0

    def encode(self) -> None:
        """As in `Subject`."""
        from engines.profile.machine import measure

        machine = measure(self._settings, bandwidth=1.0)  # the bandwidth is not asked for
        assert machine is not None
        self._flops = machine.flops

    def prepare(self, work: int) -> float:
        """As in `Subject`; it warms up by itself."""
        return peak_mb()

    def turn(self, work: int) -> float:
        """As in `Subject`."""
        self._run(work)
        return 2 * self.SIDE**3 / self._flops * 1e3
