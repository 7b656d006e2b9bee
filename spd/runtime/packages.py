"""The packages that run graphs, imported on first use. Those of TensorRT are optional: what installs them is said."""

from __future__ import annotations

import importlib
import os
import re
from typing import Any

from spd.errors import BackendError, one_line
from spd.extras import pip_install

OLDEST_TENSORRT = (10, 13)
"""The first version that takes strongly typed networks in the way version 11 does."""
BEYOND_TENSORRT = (12,)

INSTALL = pip_install("tensorrt")


def import_onnxruntime() -> Any:
    """The module `onnxruntime`, without its telemetry unless ORT_DISABLE_TELEMETRY asks for it.

    Telemetry runs in a thread for which the library waits when a process exits. A forked process does not have the
    thread, so it would never end.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    return importlib.import_module("onnxruntime")


def import_tensorrt() -> Any:
    """The module `tensorrt`.

    Raises:
        BackendError: it is missing, cannot be loaded, or is a version that SPD is not written for.
    """
    trt = _import("tensorrt")
    found = tuple(int(number) for number in re.findall(r"\d+", trt.__version__)[:2])
    if not OLDEST_TENSORRT <= found < BEYOND_TENSORRT:
        raise BackendError(
            f"TensorRT {trt.__version__} is not supported: expected 10.13 or later, before 12; {INSTALL}"
        )
    return trt


def import_cuda(name: str) -> Any:
    """A module of cuda-core or cuda-bindings, such as `cuda.core`; `spd.runtime.tensorrt.cuda` alone uses them.

    Raises:
        BackendError: it is missing or cannot be loaded.
    """
    return _import(name)


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise BackendError(f"{name} is missing: {INSTALL}") from error
    except (ImportError, OSError, RuntimeError) as error:  # a library that it links is missing or another version
        raise BackendError(f"{name} cannot be loaded ({one_line(error)}); install it again: {INSTALL}") from error
