"""Operator times from ONNX Runtime, on the CPU or on CUDA."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.profile.sizes import import_onnx
from engines.profile.times import WARM_UP, GraphTimes, OperatorTimes, Settings, timed
from engines.profile.trace import read_trace
from spd.bundle import Bundle
from spd.errors import BackendError, one_line
from spd.runtime.machine import cores


def profile_onnxruntime(
    bundle: Bundle, settings: Settings, image: NDArray[np.uint8], points: NDArray[np.float32]
) -> tuple[GraphTimes, GraphTimes]:
    """Run both graphs with ONNX Runtime's profiler.

    On CUDA every kernel is waited for before the next one starts (CUDA_LAUNCH_BLOCKING=1), because ONNX Runtime times
    the launches; this has to be the first use of CUDA in the process.

    Args:
        bundle: where the graphs are.
        settings: what to measure.
        image: uint8 [1, H, W, 3].
        points: float32 [1, K, 2], (u, v) in pixels of the image.

    Raises:
        BackendError: the backend cannot run here, onnx is missing, or the profile cannot be read.
        BundleError: a graph is missing or changed.
    """
    import_onnx()
    if settings.backend == "onnxruntime-cuda":
        os.environ["CUDA_LAUNCH_BLOCKING"] = "1"
    from spd.runtime.onnx_runtime import OnnxRuntimeBackend  # it may be missing

    backend = OnnxRuntimeBackend(bundle, settings.backend, settings.precision, settings.threads)
    encoder_calls = timed(lambda: backend.encode(image), settings.runs)
    cache = backend.encode(image)
    decoder_calls = timed(lambda: backend.decode(cache, points), settings.runs)
    encoder = _time_operators(bundle, "encoder", settings, [{"image": image}])
    alone = settings if backend.at_once == 1 else replace(settings, threads=1)
    decoder = _time_operators(
        bundle, "decoder", alone, [{**cache, "points": part} for part in backend.tiles(points)], backend.at_once
    )
    return (
        GraphTimes("encoder", encoder, encoder_calls, 0),
        GraphTimes("decoder", decoder, decoder_calls, points.shape[1]),
    )


def _time_operators(
    bundle: Bundle, graph: str, settings: Settings, parts: Sequence[dict[str, Any]], at_once: int = 1
) -> tuple[OperatorTimes, ...]:
    """Profile one graph, run for each part one after the other; arrays, or values that stay where the runtime has them.

    Args:
        bundle: where the graph is.
        graph: encoder or decoder.
        settings: what to measure.
        parts: inputs of the runs that make one call of the backend.
        at_once: how many of them the backend has going at once. Their times are shared out, as if that cost nothing.
    """
    with tempfile.TemporaryDirectory() as folder:
        optimised = Path(folder) / "optimised.onnx"
        session = _profiling_session(bundle.graph(graph, settings.precision), settings, Path(folder) / graph, optimised)
        bindings = []
        for inputs in parts:
            binding = session.io_binding()
            for name, value in inputs.items():
                bind = binding.bind_cpu_input if isinstance(value, np.ndarray) else binding.bind_ortvalue_input
                bind(name, value)
            for output in session.get_outputs():
                binding.bind_output(output.name, "cuda" if settings.backend == "onnxruntime-cuda" else "cpu")
            bindings.append(binding)
        for _ in range(WARM_UP + settings.runs):
            for binding in bindings:
                session.run_with_iobinding(binding)
        text = Path(session.end_profiling()).read_text(encoding="utf-8")
        operators = read_trace(text, graph, import_onnx().load(str(optimised)).graph, WARM_UP * len(parts))
    return tuple(_times_per_call(one, len(parts), min(at_once, len(parts))) for one in operators)


def _times_per_call(one: OperatorTimes, runs: int, at_once: int) -> OperatorTimes:
    """What an operator takes in a call that makes several runs."""
    seconds = tuple(sum(one.seconds[i : i + runs]) / at_once for i in range(0, len(one.seconds), runs))
    return replace(one, seconds=seconds, bytes=None if one.bytes is None else one.bytes * runs)


def _profiling_session(path: Path, settings: Settings, prefix: Path, optimised: Path) -> Any:
    """A session that writes its profile to `prefix` and its graph, as it runs it, to `optimised`."""
    import onnxruntime

    from spd.runtime.onnx_runtime import PROVIDERS

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only; it warns that the optimised graph fits this machine alone
    options.enable_profiling = True
    options.profile_file_prefix = str(prefix)
    options.optimized_model_filepath = str(optimised)
    options.intra_op_num_threads = settings.threads or cores()
    try:
        return onnxruntime.InferenceSession(
            str(path), options, providers=PROVIDERS[settings.backend], enable_fallback=0
        )
    except Exception as error:  # its exceptions share no base class
        raise BackendError(f"{settings.backend} cannot profile {path}: {one_line(error)}") from error
