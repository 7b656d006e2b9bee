"""How fast the machine multiplies matrices and moves memory: the roofline that blocks are held to."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.profile.sizes import import_onnx
from engines.profile.times import Settings
from spd.bundle.plans import ENGINE_BACKENDS
from spd.errors import BackendError
from spd.runtime.available import require
from spd.runtime.machine import cores

SECONDS = 0.5
"""Spent on each measurement."""

SIDE = {"onnxruntime-cpu": 1024, "onnxruntime-cuda": 8192}
"""Rows and columns of the matrices that are multiplied: enough work for every core of a CPU, or of a GPU."""

COPIED = {"onnxruntime-cpu": 128 << 20, "onnxruntime-cuda": 1 << 30}
"""Bytes read, and as many written, to measure bandwidth: more than any cache holds."""

CHAIN = 8
"""Products in a row, so that the conversion of the first operand does not count."""

_ONNX_TYPES = {"fp32": "FLOAT", "fp16": "FLOAT16", "bf16": "BFLOAT16"}


@dataclass(frozen=True)
class Machine:
    """What bounds every block: it cannot take less than its arithmetic, nor less than its traffic."""

    flops: float
    """Floating-point operations per second in a large matrix product; a multiply-accumulate is two."""
    bandwidth: float
    """Bytes per second, read and written together."""
    source: str
    """Where the two come from, for people."""

    def floor(self, macs: int, nbytes: int) -> float:
        """The least seconds for some work."""
        return max(2 * macs / self.flops, nbytes / self.bandwidth)


def measure(settings: Settings, flops: float | None = None, bandwidth: float | None = None) -> Machine | None:
    """The machine's limits: the given ones, the others measured with ONNX Runtime on the device that is profiled.

    Matrices are multiplied in the graph's precision, on a CPU in float32, in which ONNX Runtime computes all of them
    there. Bandwidth is that of one elementwise operator. The best of all repetitions counts.

    Args:
        settings: backend, precision and threads; TensorRT's device is measured with onnxruntime-cuda.
        flops: floating-point operations per second, if known.
        bandwidth: bytes per second, if known.

    Returns:
        None for TensorRT where onnxruntime-cuda does not work and not both are given.

    Raises:
        BackendError: the backend that is to be measured cannot run.
    """
    if flops is not None and bandwidth is not None:
        return Machine(flops, bandwidth, "given")
    try:
        return _measure(settings, flops, bandwidth)
    except BackendError:
        if settings.backend not in ENGINE_BACKENDS:
            raise
        return None


def _measure(settings: Settings, flops: float | None, bandwidth: float | None) -> Machine:
    """Measure what is not given."""
    backend = "onnxruntime-cuda" if settings.backend in ENGINE_BACKENDS else settings.backend
    require(backend)
    precision = settings.precision if backend == "onnxruntime-cuda" else "fp32"
    known = " and ".join(name for name, value in (("rate", flops), ("bandwidth", bandwidth)) if value is not None)
    measured = f"measured with {backend}, matrices of {SIDE[backend]} x {SIDE[backend]} in {precision}"
    return Machine(
        flops=flops or 2 * SIDE[backend] ** 3 / _product_seconds(backend, precision, settings.threads),
        bandwidth=bandwidth or 2 * COPIED[backend] / _copy_seconds(backend, settings.threads),
        source=f"{known} given, else {measured}" if known else measured,
    )


def _product_seconds(backend: str, precision: str, threads: int | None) -> float:
    """Seconds of one product of two square matrices."""
    onnx, side = import_onnx(), SIDE[backend]
    dtype = getattr(onnx.TensorProto, _ONNX_TYPES[precision])
    # Scaled so that a product has values of the same size as its operands.
    values = np.random.default_rng(0).standard_normal((side, side), dtype=np.float32) / np.float32(side**0.5)
    nodes = [
        onnx.helper.make_node("Cast", ["weights"], ["right"], to=dtype),
        onnx.helper.make_node("Cast", ["x"], ["y0"], to=dtype),
        *(onnx.helper.make_node("MatMul", [f"y{i}", "right"], [f"y{i + 1}"]) for i in range(CHAIN)),
    ]
    weights = onnx.numpy_helper.from_array(values, "weights")
    return _shortest_seconds(backend, threads, nodes, values, (f"y{CHAIN}", dtype), [weights]) / CHAIN


def _copy_seconds(backend: str, threads: int | None) -> float:
    """Seconds to read and write `COPIED` bytes."""
    onnx = import_onnx()
    values = np.ones(COPIED[backend] // 4, dtype=np.float32)
    nodes = [onnx.helper.make_node("Neg", ["x"], ["y"])]
    return _shortest_seconds(backend, threads, nodes, values, ("y", onnx.TensorProto.FLOAT), [])


def _shortest_seconds(
    backend: str,
    threads: int | None,
    nodes: Sequence[Any],
    values: NDArray[np.float32],
    output: tuple[str, int],
    weights: Sequence[Any],
) -> float:
    """The shortest time of a graph from the float32 input `x` to an output of a name and type, on the device."""
    import onnxruntime  # it may be missing

    from spd.runtime.onnx_runtime import PROVIDERS

    onnx, device = import_onnx(), "cuda" if backend == "onnxruntime-cuda" else "cpu"
    shape = list(values.shape)
    tensors = [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)]
    results = [onnx.helper.make_tensor_value_info(*output, shape)]
    graph = onnx.helper.make_graph(nodes, "measure", tensors, results, weights)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or cores()
    with redirect_stdout(io.StringIO()):  # it prints what it does not find
        onnxruntime.preload_dlls()
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=PROVIDERS[backend], enable_fallback=0
    )
    if device == "cuda" and session.get_providers()[0] != "CUDAExecutionProvider":
        raise BackendError(f"{backend} cannot run here: its CUDA and cuDNN versions must match those installed")
    binding = session.io_binding()
    binding.bind_ortvalue_input("x", onnxruntime.OrtValue.ortvalue_from_numpy(values, device))
    binding.bind_output(output[0], device)
    session.run_with_iobinding(binding)
    binding.bind_ortvalue_output(output[0], binding.get_outputs()[0])  # the same memory each time, as in an arena
    best, end = float("inf"), time.perf_counter() + SECONDS
    while best == float("inf") or time.perf_counter() < end:
        begin = time.perf_counter()
        session.run_with_iobinding(binding)
        best = min(best, time.perf_counter() - begin)
    return best
