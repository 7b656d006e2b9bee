"""The command `spd-doctor`: it agrees with `auto`, names what is missing or broken, and never fails."""

from __future__ import annotations

import ctypes
import importlib
import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import spd
import spd.commands.doctor
from spd.commands.doctor import BUNDLE_BACKENDS, PACKAGES, examine, main
from spd.runtime import BACKENDS

ROOT = Path(__file__).parents[2]
KEYS = ["format", "format_version", "components", "gpus", "providers", "backends", "auto"]


def replace(monkeypatch: pytest.MonkeyPatch, module: str, **values: Any) -> None:
    """Replace names of a module as it is imported now: the stand-ins of other tests make modules be imported again."""
    found = importlib.import_module(module)
    for name, value in values.items():
        monkeypatch.setattr(found, name, value)


def now(module: str) -> Any:
    """A module as it is imported now."""
    return importlib.import_module(module)


def doctor(*arguments: str) -> str:
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code == 0, result.output
    assert not result.stderr
    return result.stdout


def without_package(monkeypatch: pytest.MonkeyPatch, module: str, *distributions: str) -> None:
    """As if a package had not been installed."""
    real = metadata.version

    def version(name: str) -> str:
        if name in distributions:
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(spd.commands.doctor, "version", version)
    monkeypatch.setitem(sys.modules, module, None)


def breaks(monkeypatch: pytest.MonkeyPatch, module: str, error: BaseException) -> None:
    """Importing a module fails."""
    real = importlib.import_module

    def load(name: str, package: str | None = None) -> ModuleType:
        if name == module:
            raise error
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", load)


def test_the_keys_and_what_is_installed_here() -> None:
    found = json.loads(doctor("--json"))
    assert list(found) == KEYS
    assert (found["format"], found["format_version"]) == ("spd-doctor", 1)
    components = found["components"]
    assert list(components) == ["spd-depth", "Python", "GPU", "driver", *(package.name for package in PACKAGES)]
    assert all(set(component) == {"state", "version", "note"} for component in components.values())
    assert components["numpy"] == {"state": "ok", "version": np.__version__, "note": ""}
    assert components["Python"]["version"].split(".")[:2] == [str(part) for part in sys.version_info[:2]]
    assert components["spd-depth"]["version"] == spd.__version__
    assert "CPUExecutionProvider" in found["providers"]
    assert (*BUNDLE_BACKENDS, "torch") == BACKENDS == tuple(found["backends"])
    assert found["backends"]["onnxruntime-cpu"] is None


def test_every_component_has_one_line_and_the_choice_comes_last() -> None:
    found = examine()
    lines = doctor().splitlines()
    for name, component in found["components"].items():
        (line,) = (line for line in lines if line.startswith(f"{name}  "))
        assert (component["version"] or component["state"]) in line
    assert lines[-1].startswith("auto takes  ")
    assert str(found["auto"]) in lines[-1]


def test_it_agrees_with_auto(exported: Path) -> None:
    # The bundle has no TensorRT engines, so `auto` takes the first of the others.
    usable = [name for name, reason in examine()["backends"].items() if reason is None and name != "tensorrt"]
    with now("spd.runtime").load(exported) as model:
        assert model.backend == usable[0]


@pytest.mark.parametrize("backend", ["onnxruntime-cuda", "onnxruntime-cpu", "openvino"])
def test_a_backend_that_cannot_run_is_refused_for_that_reason(exported: Path, backend: str) -> None:
    reason = now("spd.runtime.available").unavailable(backend)
    if reason is None:
        with now("spd.runtime").load(exported, backend=backend) as model:
            assert model.backend == backend
    else:
        with pytest.raises(now("spd.errors").BackendError) as caught:
            now("spd.runtime").load(exported, backend=backend)
        assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("name", "module", "distributions", "install"),
    [
        ("ONNX Runtime", "onnxruntime", ("onnxruntime", "onnxruntime-gpu"), "pip install spd-depth"),
        ("TensorRT", "tensorrt", ("tensorrt", "tensorrt-cu12", "tensorrt-cu13"), "spd-depth[tensorrt]"),
        ("cuda.core", "cuda.core", ("cuda-core",), "spd-depth[tensorrt]"),
        ("OpenVINO", "none", ("openvino",), "spd-depth[openvino]"),
        ("torch", "torch", ("torch",), "spd-depth[export]"),
        ("cuDNN", "none", ("nvidia-cudnn-cu12", "nvidia-cudnn-cu13"), "onnxruntime-gpu[cuda,cudnn]"),
    ],
)
def test_what_is_missing_is_shown_with_what_installs_it(
    monkeypatch: pytest.MonkeyPatch, name: str, module: str, distributions: tuple[str, ...], install: str
) -> None:
    without_package(monkeypatch, module, *distributions)
    component = examine()["components"][name]
    assert component["state"] == "missing"
    assert component["version"] is None
    assert component["note"].startswith("pip install ")
    assert install in component["note"]
    assert f"missing: {component['note']}" in doctor()


@pytest.mark.parametrize(
    "error",
    [ImportError("libcudart.so.13: cannot open\nmore"), OSError("libcudart.so.13: cannot open"), RuntimeError()],
)
def test_what_is_broken_is_shown_with_its_first_line(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    breaks(monkeypatch, "onnxruntime", error)
    found = examine()
    component = found["components"]["ONNX Runtime"]
    assert component["state"] == "broken"
    assert component["version"] is not None
    first = str(error).split("\n", maxsplit=1)[0] or "RuntimeError"
    assert component["note"] == f"{first}; install it again: pip install spd-depth"
    assert found["providers"] == []
    assert f"broken: {first}" in doctor()


def test_a_package_whose_dependency_is_missing_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    breaks(monkeypatch, "onnxruntime", ModuleNotFoundError("No module named 'flatbuffers'", name="flatbuffers"))
    assert examine()["components"]["ONNX Runtime"]["state"] == "broken"


def test_it_works_where_everything_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Any:
        raise RuntimeError("all is lost")

    replace(monkeypatch, "spd.runtime.devices", cuda_missing=fail)
    replace(monkeypatch, "spd.runtime.available", unavailable=fail)
    replace(monkeypatch, "spd.runtime.machine", gpus=fail, driver_version=fail)
    monkeypatch.setattr(spd.commands.doctor, "version", fail)
    monkeypatch.setattr(importlib, "import_module", fail)
    found = json.loads(doctor("--json"))
    assert list(found) == KEYS
    assert found["auto"] is None
    assert set(found["backends"].values()) == {"all is lost"}
    assert found["components"]["GPU"]["state"] == "broken"
    assert all(found["components"][package.name]["state"] == "broken" for package in PACKAGES)
    assert doctor().endswith("auto takes          nothing: no backend can run a bundle here\n")


class Driver:
    """libcuda, libnvidia-ml and libcudart of a machine with two GPUs."""

    def __init__(self, nvml_status: int = 0) -> None:
        self.nvml_status = nvml_status

    def __getattr__(self, name: str) -> Any:
        if name in ("cuInit", "nvmlInit_v2"):
            return lambda *_: 0
        raise AttributeError(name)

    @staticmethod
    def _set(pointer: Any, value: int) -> int:
        pointer._obj.value = value
        return 0

    def cuDeviceGetCount(self, count: Any) -> int:
        return self._set(count, 2)

    def cuDeviceGet(self, device: Any, ordinal: int) -> int:
        return self._set(device, 40 + ordinal)

    def cuDeviceGetName(self, name: Any, size: int, device: ctypes.c_int) -> int:
        name.value = f"NVIDIA {device.value}"[: size - 1].encode()
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: ctypes.c_int) -> int:
        return self._set(value, {75: device.value - 31, 76: 0}[attribute])

    def cuDeviceTotalMem_v2(self, value: Any, _: ctypes.c_int) -> int:
        return self._set(value, 150 * 2**30)

    def cuDriverGetVersion(self, value: Any) -> int:
        return self._set(value, 13020)

    def cudaRuntimeGetVersion(self, value: Any) -> int:
        return self._set(value, 12090)

    def nvmlSystemGetDriverVersion(self, text: Any, _: int) -> int:
        text.value = b"580.65.06"
        return self.nvml_status


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> Driver:
    driver = Driver()
    replace(monkeypatch, "spd.runtime.machine", cuda_missing=lambda: None)
    replace(monkeypatch, "spd.runtime.devices", cuda_missing=lambda: None)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    return driver


def test_the_driver_is_read(two_gpus: Driver) -> None:
    info = now("spd.runtime.machine").GpuInfo
    assert now("spd.runtime.machine").gpus() == [
        info("NVIDIA 40", "9.0", 150 * 2**30),
        info("NVIDIA 41", "10.0", 150 * 2**30),
    ]
    assert now("spd.runtime.machine").driver_version() == "580.65.06, for CUDA 13.2"
    assert now("spd.runtime.machine").cuda_runtime_version() == "12.9"
    two_gpus.nvml_status = 9
    assert now("spd.runtime.machine").driver_version() == "for CUDA 13.2"


def test_gpus_are_listed(two_gpus: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    replace(monkeypatch, "spd.runtime.available", unavailable=lambda name: None)
    found = examine()
    assert [gpu["compute_capability"] for gpu in found["gpus"]] == ["9.0", "10.0"]
    assert found["auto"] == "tensorrt"
    said = doctor()
    assert "NVIDIA 40, compute capability 9.0, 150 GiB; NVIDIA 41, compute capability 10.0, 150 GiB" in said
    assert "580.65.06, for CUDA 13.2" in said
    assert "auto takes          tensorrt for a bundle with its engines (spd-build makes them)" in said
    assert said.endswith("otherwise onnxruntime-cuda\n")


def test_tensorrt_is_taken_where_it_runs(tensorrt_any: Any) -> None:
    # The stand-ins make modules be imported again, so both come from there.
    found = importlib.import_module("spd.commands.doctor").examine()
    assert found["backends"]["tensorrt"] is None
    assert found["auto"] == "tensorrt"
    assert found["components"]["TensorRT"]["state"] == "ok"
    assert found["components"]["TensorRT"]["version"] == sys.modules["tensorrt"].__version__


def test_no_driver_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("spd.runtime.machine", "spd.runtime.devices", "spd.runtime.available"):
        replace(monkeypatch, module, cuda_missing=lambda: "no NVIDIA driver (gone)")
    assert (now("spd.runtime.machine").gpus(), now("spd.runtime.machine").driver_version()) == ([], None)
    found = examine()
    assert found["gpus"] == []
    assert found["components"]["GPU"] == {"state": "missing", "version": None, "note": "no NVIDIA driver (gone)"}
    assert "no NVIDIA driver (gone)" in found["backends"]["onnxruntime-cuda"]


def test_a_machine_without_a_cuda_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", absent)
    assert now("spd.runtime.machine").cuda_runtime_version() is None
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(cudaRuntimeGetVersion=lambda _: 35))
    assert now("spd.runtime.machine").cuda_runtime_version() is None


def test_torch_needs_more_than_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    replace(monkeypatch, "spd.runtime.available", find_spec=lambda name: None if name in ("timm", "torch") else name)
    assert now("spd.runtime.available").unavailable("torch") == "torch, timm missing: pip install 'spd-depth[export]'"


def test_torch_is_not_imported_and_the_base_install_is_enough() -> None:
    code = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'timm', 'onnx', 'tensorrt', 'cuda', 'rich'):\n"
        "            raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from spd.commands.doctor import main\n"
        "main(['--json'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["backends"]["onnxruntime-cpu"] is None
    assert found["backends"]["tensorrt"] is not None
    assert found["components"]["torch"]["version"] == metadata.version("torch")
