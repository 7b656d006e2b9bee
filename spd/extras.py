"""Which extra of this project brings which package, and what to type to get it."""

from __future__ import annotations

DISTRIBUTION = "spd-depth"

BROUGHT_BY: dict[str | None, tuple[str, ...]] = {
    None: ("numpy", "PIL", "click", "filelock", "platformdirs", "rich", "onnxruntime"),
    "export": ("torch", "timm", "onnx", "onnx_ir", "onnxscript", "safetensors"),
    "train": (
        *(
            "h5py",
            "lightning_fabric",
            "matplotlib",
            "safetensors",
            "scipy",
            "tensorboard",
            "timm",
            "torch",
            "torchvision",
        ),
        "transformers",
    ),
    "tensorrt": ("tensorrt", "cuda"),
    "rtx": ("tensorrt_rtx", "cuda"),
    "openvino": ("openvino",),
    "bulk": ("pyarrow", "ray"),
    "serve": ("starlette", "uvicorn", "prometheus_client", "python_multipart"),
    "profile": ("matplotlib", "onnx"),
    "tools": ("matplotlib", "openvino"),
}
"""Top-level modules by extra; None is the base installation. A test compares it with the metadata."""


def pip_install(extra: str | None) -> str:
    """The command that installs an extra; None stands for the base installation."""
    return f"pip install {DISTRIBUTION}" if extra is None else f"pip install '{DISTRIBUTION}[{extra}]'"


def how_to_install(module: str, preferred: str | None = None) -> str | None:
    """The command that installs a module.

    Args:
        module: its name, maybe with dots.
        preferred: the extra to take if it brings the module; otherwise the first one that does is taken.

    Returns:
        None where no part of this project brings the module.
    """
    top = module.partition(".")[0]
    extras = [extra for extra, modules in BROUGHT_BY.items() if top in modules]
    if not extras:
        return None
    return pip_install(preferred if preferred in extras else extras[0])
