"""Whether a backend can run on this machine at all, whatever the bundle. Whoever wants to know asks here."""

from __future__ import annotations

from importlib.util import find_spec

from spd.bundle.contract import QUANTISED
from spd.bundle.plans import ENGINE_BACKENDS
from spd.errors import BackendError, one_line
from spd.extras import pip_install
from spd.runtime.devices import cuda_missing
from spd.runtime.packages import import_onnxruntime, import_openvino

TORCH_PACKAGES = ("torch", "timm", "safetensors")


def require(backend: str, precision: str | None = None) -> None:
    """Refuse a backend of `spd.runtime.BACKENDS` that cannot run here, or not in a precision.

    Raises:
        BackendError: it cannot, with the reason.
    """
    if backend == "onnxruntime-cpu" and precision == "bf16":
        raise BackendError("onnxruntime-cpu cannot run bf16: its CPU provider has no bfloat16; take fp32 or fp16")
    if backend == "openvino" and precision not in (None, "fp32", "bf16", "int8", "int8-bf16"):
        raise BackendError(f"openvino cannot run {precision}: on a CPU it takes fp32, bf16, int8 or int8-bf16")
    if backend == "onnxruntime-cuda" and precision in QUANTISED:
        raise BackendError(
            f"onnxruntime-cuda cannot run {precision}: int8 is for CPUs, int8-fp16 for TensorRT; take fp16"
        )
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
