"""The packages that run graphs, imported on first use. All but ONNX Runtime are optional."""

from __future__ import annotations

import importlib
import os
import re
import sys
from typing import Any

from spd.errors import BackendError, one_line
from spd.extras import pip_install

OLDEST_TENSORRT = (10, 13)
"""The first version that takes strongly typed networks in the way version 11 does."""
BEYOND_TENSORRT = (12,)

OLDEST_RTX = (1, 7)
"""The first version of TensorRT for RTX whose log was read."""
BEYOND_RTX = (2,)

INSTALL = pip_install("tensorrt")
INSTALL_RTX = pip_install("rtx")
INSTALL_OPENVINO = pip_install("openvino")


def import_onnxruntime() -> Any:
    """The module `onnxruntime`, without its telemetry unless ORT_DISABLE_TELEMETRY asks for it.

    Telemetry runs in a thread for which the library waits when a process exits. A forked process does not have the
    thread, so it would never end.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    return importlib.import_module("onnxruntime")


def import_openvino() -> Any:
    """The module `openvino`, without its telemetry.

    Its import alone would send a message to a server and leave an identity in the home folder. Where the package that
    does this is missing, OpenVINO goes without.

    Raises:
        BackendError: it is missing or cannot be loaded.
    """
    telemetry = "openvino_telemetry"
    hidden = telemetry not in sys.modules
    if hidden:
        sys.modules[telemetry] = None  # type: ignore[assignment] # "do not import this"
    try:
        return _import("openvino", INSTALL_OPENVINO)
    finally:
        if hidden:
            del sys.modules[telemetry]


def import_tensorrt() -> Any:
    """The module `tensorrt`.

    Raises:
        BackendError: it is missing, cannot be loaded, or is a version that SPD is not written for.
    """
    trt = _import("tensorrt")
    if not OLDEST_TENSORRT <= _release(trt) < BEYOND_TENSORRT:
        raise BackendError(
            f"TensorRT {trt.__version__} is not supported: expected 10.13 or later, before 12; {INSTALL}"
        )
    return trt


def import_tensorrt_rtx() -> Any:
    """The module `tensorrt_rtx`: TensorRT for RTX, whose compiler needs no GPU.

    Raises:
        BackendError: it is missing, cannot be loaded, or is a version that SPD is not written for.
    """
    rtx = _import("tensorrt_rtx", INSTALL_RTX)
    if not OLDEST_RTX <= _release(rtx) < BEYOND_RTX:
        raise BackendError(
            f"TensorRT for RTX {rtx.__version__} is not supported: expected 1.7 or later, before 2; {INSTALL_RTX}"
        )
    return rtx


def import_cuda(name: str) -> Any:
    """A module of cuda-core or cuda-bindings, such as `cuda.core`; `spd.runtime.tensorrt.cuda` alone uses them.

    Raises:
        BackendError: it is missing or cannot be loaded.
    """
    return _import(name)


def _release(module: Any) -> tuple[int, ...]:
    """The first two numbers of a module's version."""
    return tuple(int(number) for number in re.findall(r"\d+", module.__version__)[:2])


def _import(name: str, install: str = INSTALL) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise BackendError(f"{name} is missing: {install}") from error
    except (ImportError, OSError, RuntimeError) as error:  # a library that it links is missing or another version
        raise BackendError(f"{name} cannot be loaded ({one_line(error)}); install it again: {install}") from error
