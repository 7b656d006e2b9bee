"""`spd-doctor`: what this machine can run, and what to install for the rest. Needs the base installation only.

`--json` prints one object with these keys; later versions may add keys, `format_version` counts other changes.

| key | value |
|---|---|
| `format`, `format_version` | "spd-doctor", 1 |
| `components` | name to {`state`: "ok", "missing" or "broken"; `version`: text or null; `note`: text, may be empty} |
| `gpus` | list of {`name`, `compute_capability`, `memory_bytes`} |
| `providers` | ONNX Runtime's execution providers, best first; empty if it cannot be loaded |
| `backends` | name to null if it can run here, or else why not |
| `auto` | the first backend that can run bundles here, or null |
"""

from __future__ import annotations

import importlib
import json
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import click

from spd.bundle.contract import BACKENDS
from spd.commands.cli import Command, write_stdout
from spd.errors import one_line
from spd.extras import pip_install
from spd.version import __version__

FORMAT, FORMAT_VERSION = "spd-doctor", 1

OK, MISSING, BROKEN = "ok", "missing", "broken"

BUNDLE_BACKENDS = tuple(name for name in BACKENDS if name != "torch")
"""Those that run bundles, in the order in which `auto` tries them."""

BUILT_BY = {"tensorrt": "spd-build", "tensorrt-rtx": "spd-build --for rtx"}
"""Backends that need engines, and what makes them."""

EXPORT = pip_install("export")
TENSORRT = pip_install("tensorrt")
CUDA = "pip install 'onnxruntime-gpu[cuda,cudnn]'"
BASE = pip_install(None)


@dataclass(frozen=True)
class Component:
    """One line of the table."""

    state: str
    """ok, missing or broken."""
    version: str | None
    note: str = ""
    """What to do, or what else is known."""


@dataclass(frozen=True)
class Package:
    """How to look for a Python package."""

    name: str
    distributions: tuple[str, ...]
    """Names on the package index, the first one found counts."""
    install: str
    module: str | None = None
    """What to import to see that it works; None for packages that take seconds, and for mere libraries."""


PACKAGES = (
    Package("CUDA runtime", ("nvidia-cuda-runtime", "nvidia-cuda-runtime-cu13", "nvidia-cuda-runtime-cu12"), CUDA),
    Package("cuDNN", ("nvidia-cudnn-cu13", "nvidia-cudnn-cu12"), CUDA),
    Package("TensorRT", ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"), TENSORRT, "tensorrt"),
    Package("TensorRT for RTX", ("tensorrt-rtx-cu13",), pip_install("rtx"), "tensorrt_rtx"),
    Package("cuda.core", ("cuda-core",), TENSORRT, "cuda.core"),
    Package("ONNX Runtime", ("onnxruntime-gpu", "onnxruntime"), BASE, "onnxruntime"),
    Package("OpenVINO", ("openvino",), pip_install("openvino")),
    Package("numpy", ("numpy",), BASE, "numpy"),
    Package("pillow", ("pillow",), BASE, "PIL.Image"),
    Package("torch", ("torch",), EXPORT),
    Package("timm", ("timm",), EXPORT),
    Package("onnx", ("onnx",), EXPORT),
)


def examine() -> dict[str, Any]:
    """Look at the machine; the keys are listed above. Whatever fails is reported, not raised."""
    components = {"spd-depth": Component(OK, __version__), "Python": Component(OK, platform.python_version())}
    devices = _attempt(_gpus, lambda _: [])
    components["GPU"], components["driver"] = _attempt(lambda: _driver(devices), lambda _: (_NO_DRIVER, _NO_DRIVER))
    components.update((package.name, _component(package)) for package in PACKAGES)
    backends = {name: _attempt(partial(_unavailable, name), one_line) for name in (*BUNDLE_BACKENDS, "torch")}
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "components": {name: asdict(component) for name, component in components.items()},
        "gpus": [asdict(device) for device in devices],
        "providers": _attempt(
            lambda: list(importlib.import_module("onnxruntime").get_available_providers()), lambda _: []
        ),
        "backends": backends,
        "auto": next((name for name in BUNDLE_BACKENDS if backends[name] is None), None),
    }


_NO_DRIVER = Component(BROKEN, None, "the NVIDIA driver cannot be asked")


def _gpus() -> list[Any]:
    from spd.runtime.machine import gpus  # imports numpy and Pillow, which may be broken

    return list(gpus())


def _driver(devices: list[Any]) -> tuple[Component, Component]:
    """GPU and driver."""
    from spd.runtime.devices import cuda_missing
    from spd.runtime.machine import driver_version  # as above

    reason = cuda_missing()
    if reason is not None:
        return Component(MISSING, None, reason), Component(MISSING, None, "install NVIDIA's driver for the GPU")
    names = "; ".join(
        f"{gpu.name}, compute capability {gpu.compute_capability}, {gpu.memory_bytes / 2**30:.0f} GiB"
        for gpu in devices
    )
    return Component(OK, names), Component(OK, driver_version())


def _component(package: Package) -> Component:
    found = None
    for distribution in package.distributions:
        try:
            found = version(distribution)
        except PackageNotFoundError:
            continue
        except Exception as error:  # its metadata may be damaged in any way
            return Component(BROKEN, None, f"{one_line(error)}; install it again: {package.install}")
        break
    if found is None and package.name == "CUDA runtime":
        found = _attempt(_system_cuda, lambda _: None)
    if package.module is not None:
        try:
            module = importlib.import_module(package.module)
        except ModuleNotFoundError as error:
            if found is None and error.name is not None and package.module.startswith(error.name):
                return Component(MISSING, None, package.install)
            return Component(BROKEN, found, f"{one_line(error)}; install it again: {package.install}")
        except Exception as error:  # a library that it links is missing, or another version
            return Component(BROKEN, found, f"{one_line(error)}; install it again: {package.install}")
        # Installed otherwise than by pip.
        found = found or str(getattr(module, "__version__", "of unknown version"))
    return Component(MISSING, None, package.install) if found is None else Component(OK, found)


def _system_cuda() -> str | None:
    from spd.runtime.machine import cuda_runtime_version  # as above

    return cuda_runtime_version()


def _unavailable(backend: str) -> str | None:
    from spd.runtime.available import unavailable  # as above

    return unavailable(backend)


def _attempt(look: Callable[[], Any], otherwise: Callable[[Exception], Any]) -> Any:
    try:
        return look()
    except Exception as error:  # what is broken is reported by the component that it belongs to
        return otherwise(error)


def table(found: dict[str, Any]) -> str:
    """What `examine` found, for people."""
    rows = []
    for name, component in found["components"].items():
        state, text, notes = component["state"], component["version"] or "", component["note"]
        rows.append((name, text if state == OK else f"{state}: {notes}" if not text else f"{text} {state}: {notes}"))
        if name == "ONNX Runtime" and found["providers"]:
            rows.append(("  providers", ", ".join(found["providers"])))
    rows.append(("backends", ""))
    for name, reason in found["backends"].items():
        rows.append((f"  {name}", "can run here" if reason is None else f"no: {reason}"))
    rows.append(("auto takes", _choice(found)))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {text}".rstrip() for name, text in rows)


def _choice(found: dict[str, Any]) -> str:
    auto, backends = found["auto"], found["backends"]
    if auto is None:
        return "nothing: no backend can run a bundle here"
    with_engines = [name for name in BUNDLE_BACKENDS if name in BUILT_BY and backends[name] is None]
    rest = next((name for name in BUNDLE_BACKENDS if name not in BUILT_BY and backends[name] is None), "nothing")
    if with_engines:
        first = ", ".join(
            f"{name} for a bundle with its engines ({BUILT_BY[name]} makes them)" for name in with_engines
        )
        return f"{first}, otherwise {rest}"
    return f"{auto} for a bundle, torch for a checkpoint" if backends["torch"] is None else f"{auto} for a bundle"


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
@click.version_option(__version__, prog_name="spd-doctor")
def main(as_json: bool) -> None:
    """Print what this machine can run: GPU, driver, packages, and the backend that `auto` would take.

    What is missing is shown with what installs it. The exit code is 0 whatever is found.
    """
    found = examine()
    write_stdout(f"{json.dumps(found, indent=2) if as_json else table(found)}\n".encode())


if __name__ == "__main__":
    main()
