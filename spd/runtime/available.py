"""Whether a backend can run on this machine at all, and what it runs on any. Whoever wants to know asks here."""

from __future__ import annotations

from importlib.util import find_spec

from spd.bundle import Bundle
from spd.bundle.contract import FLOATING, QUANTISED
from spd.bundle.plans import ENGINE_BACKENDS
from spd.errors import BackendError, one_line
from spd.extras import pip_install
from spd.runtime.devices import cuda_missing
from spd.runtime.openvino_backend import RECIPES
from spd.runtime.packages import import_onnxruntime, import_openvino

TORCH_PACKAGES = ("torch", "timm", "safetensors")


_WHY_NOT = {
    "bf16": "it has no bfloat16",
    "int8": "int8 graphs are for CPUs",
    "int8-bf16": "openvino alone does",
}
"""Why a backend does not run a precision; of those that are not here it is whom their graphs are for."""


def run_precisions(backend: str) -> dict[str, str]:
    """The precisions that a backend of graphs or plans runs, and of each the precision of the graphs that it takes."""
    if backend == "openvino":
        return {precision: recipe.graphs for precision, recipe in RECIPES.items()}
    if backend in ENGINE_BACKENDS:
        from spd.runtime.tensorrt.library import PREFERENCE  # as below

        return {precision: precision for precision in PREFERENCE}
    return {p: p for p in (FLOATING if backend == "onnxruntime-cuda" else ("fp32", "fp16", "int8", "int8-fp16"))}


def check_precision(backend: str, precision: str, bundle: Bundle) -> None:
    """Refuse a precision that a backend of graphs or plans runs on no machine.

    Raises:
        BackendError: says which of the bundle's it runs.
    """
    runs = run_precisions(backend)
    if precision in runs:
        return
    why = _WHY_NOT.get(precision, f"{precision} graphs are for {'TensorRT' if precision in QUANTISED else 'GPUs'}")
    there = [other for other, graphs in runs.items() if graphs in bundle.manifest.precisions]
    raise BackendError(
        f"{backend} cannot run {precision}: {why}; of the precisions of {bundle.path} it runs {', '.join(there)}: "
        "take one of those"
    )


def require(backend: str) -> None:
    """Refuse a backend of `spd.runtime.BACKENDS` that cannot run here.

    Raises:
        BackendError: it cannot, with the reason.
    """
    if reason := unavailable(backend):
        raise BackendError(f"{backend} cannot run here: {reason}")


def unavailable(backend: str) -> str | None:
    """Why a backend of `spd.runtime.BACKENDS` cannot run here, or None. Torch is looked for, not imported."""
    if backend in ENGINE_BACKENDS:
        return _tensorrt_unavailable(ENGINE_BACKENDS[backend])
    if backend == "torch":
        missing = [package for package in TORCH_PACKAGES if find_spec(package) is None]
        return f"{', '.join(missing)} missing: {pip_install('export')}" if missing else None
    if backend == "openvino":
        return _openvino_unavailable()
    return _onnxruntime_unavailable(cuda=backend == "onnxruntime-cuda")


def _tensorrt_unavailable(flavour: str) -> str | None:
    from spd.runtime.tensorrt.cuda import current_target  # for those who ask for TensorRT only
    from spd.runtime.tensorrt.library import LIBRARIES

    try:
        current_target(LIBRARIES[flavour])
    except BackendError as error:
        return str(error)
    return None


def _openvino_unavailable() -> str | None:
    try:
        import_openvino()  # 0.2 s
    except BackendError as error:
        return str(error)
    return None


def _onnxruntime_unavailable(cuda: bool) -> str | None:
    if find_spec("onnxruntime") is None:
        return f"onnxruntime is missing: {pip_install(None)}"
    try:
        onnxruntime = import_onnxruntime()  # 0.1 s
    except Exception as error:
        if isinstance(error.__cause__, KeyboardInterrupt):  # Ctrl-C while its library is loaded
            raise KeyboardInterrupt from error
        return f"onnxruntime cannot be loaded ({one_line(error)}); install it again"
    if cuda and "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return f"this onnxruntime {onnxruntime.__version__} is built without CUDA; pip install onnxruntime-gpu"
    return cuda_missing() if cuda else None
