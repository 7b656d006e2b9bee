"""Whether a backend can run on this machine at all, whatever the bundle: `spd-doctor` and `spd.load` go by it."""

from __future__ import annotations

from importlib.util import find_spec

from spd.errors import BackendError, one_line
from spd.extras import pip_install

TORCH_PACKAGES = ("torch", "timm", "safetensors")


def unavailable(backend: str) -> str | None:
    """Why a backend of `spd.runtime.BACKENDS` cannot run here, or None. Heavy packages are looked for, not imported."""
    if backend == "tensorrt":
        return _tensorrt()
    if backend == "torch":
        missing = [package for package in TORCH_PACKAGES if find_spec(package) is None]
        return f"{', '.join(missing)} missing: {pip_install('export')}" if missing else None
    return _onnxruntime(cuda=backend == "onnxruntime-cuda")


def _tensorrt() -> str | None:
    from spd.runtime.tensorrt.cuda import current_target  # for those who ask for TensorRT only

    try:
        current_target()
    except BackendError as error:
        return str(error)
    return None


def _onnxruntime(cuda: bool) -> str | None:
    if find_spec("onnxruntime") is None:
        return f"onnxruntime is missing: {pip_install(None)}"
    try:
        from spd.runtime.onnx_runtime import cuda_unavailable  # 0.1 s
    except Exception as error:
        if isinstance(error.__cause__, KeyboardInterrupt):  # Ctrl-C while its library is loaded
            raise KeyboardInterrupt from error
        return f"onnxruntime cannot be loaded ({one_line(error)}); install it again"
    return cuda_unavailable() if cuda else None
