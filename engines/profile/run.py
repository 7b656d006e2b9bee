"""The work of `spd-profile`: inputs, the backend's profiler, the machine's limits, and the report of all three."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.profile.cost import CostedGraph
from engines.profile.machine import measure
from engines.profile.report import Report, summarise
from engines.profile.sizes import import_onnx
from engines.profile.times import Settings
from spd.bundle import GRAPHS, Bundle, open_bundle
from spd.bundle.gate import check_images
from spd.bundle.plans import ENGINE_BACKENDS
from spd.commands.progress import Phases
from spd.errors import InputError
from spd.runtime.available import check_precision, require


def inputs(height: int, width: int, points: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """A rendered room, uint8 [1, H, W, 3], and points all over it, float32 [1, K, 2], (u, v) in pixels."""
    spread = np.random.default_rng(0).uniform((0, 0), (width, height), size=(1, points, 2))
    return check_images(height, width)[:1], spread.astype(np.float32)


def check(bundle: Bundle, settings: Settings) -> None:
    """Refuse what cannot be profiled before anything is loaded.

    Raises:
        BackendError: the backend cannot run here, or not in the precision; or onnx is missing.
        BundleError: the bundle has no such precision, or a graph of it is missing or changed.
        InputError: K is larger than the bundle takes.
    """
    for graph in GRAPHS:
        bundle.graph(graph, settings.precision)
    limit = bundle.manifest.max_points
    if settings.points > limit:
        raise InputError(
            f"K = {settings.points} is in no bucket of {bundle.path}, which takes 1 to {limit} points a call"
        )
    check_precision(settings.backend, settings.precision, bundle)
    require(settings.backend)
    import_onnx()


def profile(
    path: Path, settings: Settings, phases: Phases, flops: float | None = None, bandwidth: float | None = None
) -> Report:
    """Profile a bundle.

    Args:
        path: a bundle, or a folder that holds one.
        settings: what to measure.
        phases: is told what goes on.
        flops: floating-point operations per second of the machine; measured if None.
        bandwidth: bytes per second of the machine; measured if None.

    Raises:
        SPDError: as `check` and the backends say.
    """
    bundle = open_bundle(path)
    check(bundle, settings)
    manifest = bundle.manifest
    image, points = inputs(manifest.height, manifest.width, settings.points)
    with phases(f"timing {settings.runs} runs on {settings.backend}, as a whole and operator by operator"):
        times = _profiler(settings.backend)(bundle, settings, image, points)
    # After the profile, because the first use of CUDA decides whether kernels are waited for.
    with phases("measuring the machine's best"):
        machine = measure(settings, flops, bandwidth)
    graphs = []
    for of_graph in times:
        model = bundle.graph(of_graph.graph, settings.precision)
        costs = CostedGraph(model, of_graph.graph, of_graph.points or settings.points).costs()
        graphs.append(summarise(of_graph, costs, machine))
    return Report(bundle, settings, machine, times, tuple(graphs))


def _profiler(backend: str) -> Any:
    """The profiler of a backend; what it imports may be missing for the others."""
    if backend in ENGINE_BACKENDS:
        from engines.profile.tensorrt import profile_tensorrt

        return profile_tensorrt
    from engines.profile.onnxruntime import profile_onnxruntime

    return profile_onnxruntime
