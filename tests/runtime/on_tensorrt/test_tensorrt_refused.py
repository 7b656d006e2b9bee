"""Engines that cannot be used here are refused before TensorRT sees them, with what to do about it."""

from __future__ import annotations

import dataclasses
import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tensorrt_support import add_engines, replace_records, rewrite

import spd
from spd.bundle import open_bundle
from spd.errors import BackendError, TensorRTError


@pytest.fixture
def engines(tensorrt_11: Any, bundle: Path) -> Path:
    add_engines(bundle)
    tensorrt_11.counts.reset()
    return bundle


def refused(folder: Path, machine: Any, message: str, kind: type[BackendError] = BackendError) -> str:
    with pytest.raises(kind, match=message) as caught:
        spd.load(folder, backend="tensorrt")
    assert machine.counts.events["deserializations"] == 0
    return str(caught.value)


def rebuild(folder: Path) -> str:
    return f"rebuild it: spd-build {folder} --precision fp32 --force"


def test_another_gpu(engines: Path, tensorrt_11: Any) -> None:
    tensorrt_11.gpu, tensorrt_11.compute_capability = "NVIDIA A10", (8, 6)
    text = refused(engines, tensorrt_11, r"built for NVIDIA H200 .* 9\.0\), this is NVIDIA A10 \(8\.6\)")
    assert text.endswith(rebuild(engines))


def test_another_tensorrt(engines: Path, use_tensorrt: Callable[[str], Any]) -> None:
    machine = use_tensorrt("10.16.1.11")
    text = refused(
        engines, machine, r"encoder.fp32.engine was built with TensorRT 11\.4\.0\.106, this is 10\.16\.1\.11"
    )
    assert text.endswith(rebuild(engines))


def test_an_older_driver(engines: Path, tensorrt_11: Any) -> None:
    tensorrt_11.driver = 12090
    text = refused(
        engines, tensorrt_11, r"built with a driver for CUDA 13\.0, the driver here is for CUDA 12\.9; update"
    )
    assert text.endswith(rebuild(engines))
    tensorrt_11.driver = 13020
    with spd.load(engines, backend="tensorrt") as model:
        assert model.backend == "tensorrt"


@pytest.mark.parametrize("graph", ["encoder", "decoder"])
def test_a_changed_file(engines: Path, tensorrt_11: Any, graph: str) -> None:
    plan = engines / f"{graph}.fp32.engine"
    data = bytearray(plan.read_bytes())
    data[len(data) // 2] ^= 1
    plan.write_bytes(data)
    with pytest.raises(TensorRTError, match=rf"{graph}.fp32.engine is not the file") as caught:
        spd.load(engines, backend="tensorrt")
    assert str(caught.value).endswith(f"rebuild the engine: spd-build {engines} --precision fp32 --force")
    assert tensorrt_11.counts.events["deserializations"] == (graph == "decoder")
    plan.unlink()
    with pytest.raises(TensorRTError, match=rf"{graph}.fp32.engine is missing"):
        spd.load(engines, backend="tensorrt")


def test_a_plan_that_tensorrt_refuses(engines: Path, tensorrt_11: Any) -> None:
    rewrite(engines, "encoder.fp32.engine", b"no plan at all")
    with pytest.raises(
        TensorRTError, match=r"deserialize_cuda_engine failed for encoder.fp32.engine: .*magic"
    ) as caught:
        spd.load(engines, backend="tensorrt")
    assert str(caught.value).endswith(rebuild(engines))
    assert tensorrt_11.live_buffers == 0


def test_a_plan_of_another_graph(engines: Path, tensorrt_11: Any) -> None:
    """The decoder in the encoder's place, with a matching manifest."""
    rewrite(engines, "encoder.fp32.engine", (engines / "decoder.fp32.engine").read_bytes())
    with pytest.raises(TensorRTError, match=r"encoder.fp32.engine has tensor \w+ as .*, expected") as caught:
        spd.load(engines, backend="tensorrt")
    assert str(caught.value).endswith(rebuild(engines))
    assert tensorrt_11.live_buffers == 0


def test_a_plan_of_another_precision(engines: Path, tensorrt_11: Any) -> None:
    add_engines(engines, "fp16")
    rewrite(engines, "decoder.fp32.engine", (engines / "decoder.fp16.engine").read_bytes())
    with pytest.raises(TensorRTError, match=r"decoder.fp32.engine has tensor l\d_\w+ as .*HALF.*, expected .*FLOAT"):
        spd.load(engines, backend="tensorrt", precision="fp32")


def test_a_plan_with_other_profiles(engines: Path, tensorrt_11: Any) -> None:
    encoder, decoder = open_bundle(engines).manifest.engines
    replace_records(engines, encoder, dataclasses.replace(decoder, profiles=decoder.profiles[:2]))
    with pytest.raises(TensorRTError, match=r"decoder.fp32.engine has 3 profiles, the manifest says 2; rebuild it"):
        spd.load(engines, backend="tensorrt")


def test_host_code_stays_disabled(engines: Path, tensorrt_11: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from stand_ins.trt_engine import Runtime

    allowed, deserialise = [], Runtime.deserialize_cuda_engine

    def watched(self: Any, plan: bytes) -> Any:
        allowed.append(self.engine_host_code_allowed)
        return deserialise(self, plan)

    monkeypatch.setattr(Runtime, "deserialize_cuda_engine", watched)
    with spd.load(engines, backend="tensorrt"):
        assert allowed == [False, False]


def test_no_engines(tensorrt_11: Any, bundle: Path) -> None:
    text = refused(bundle, tensorrt_11, "has no TensorRT engines")
    assert text.endswith(f"build them on this machine: spd-build {bundle} --precision fp16")


def test_precision_by_preference(engines: Path, tensorrt_11: Any) -> None:
    with spd.load(engines) as model:
        assert (model.backend, model.precision) == ("tensorrt", "fp32")
    add_engines(engines, "fp16")
    with spd.load(engines) as model:
        assert (model.backend, model.precision) == ("tensorrt", "fp16")
    with pytest.raises(BackendError, match=r"in bf16: it has engines for fp16, fp32 only; .*--precision bf16"):
        spd.load(engines, backend="tensorrt", precision="bf16")


@pytest.mark.parametrize("version", ["10.12.0.36", "9.3.0", "12.0.0.1"])
def test_unsupported_versions(engines: Path, tensorrt_11: Any, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(sys.modules["tensorrt"], "__version__", version)
    refused(engines, tensorrt_11, rf"TensorRT {version} is not supported: expected 10\.13 or later, before 12; pip")


@pytest.mark.parametrize("package", ["tensorrt", "cuda.core"])
def test_missing_packages(engines: Path, tensorrt_11: Any, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    refused(engines, tensorrt_11, rf"{package} is missing: pip install 'spd-depth\[tensorrt\]'")


def test_a_package_that_cannot_be_loaded(engines: Path, tensorrt_11: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> Any:
        raise OSError("libnvinfer.so.11: cannot open shared object file\nand more")

    monkeypatch.setattr("importlib.import_module", load)
    refused(
        engines, tensorrt_11, r"tensorrt cannot be loaded \(libnvinfer.so.11: cannot open .* file\); install it again"
    )


def test_no_gpu(engines: Path, tensorrt_11: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from stand_ins.cuda_core import Device

    def set_current(self: Any) -> None:
        raise RuntimeError("no driver")

    monkeypatch.setattr(Device, "set_current", set_current)
    refused(engines, tensorrt_11, "no GPU can be used: no driver")


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_auto_goes_on_and_warns(engines: Path, tensorrt_11: Any, caplog: pytest.LogCaptureFixture) -> None:
    """In one line, of both backends that the bundle was made for: the stand-in's GPU is none for ONNX Runtime."""
    tensorrt_11.gpu = "NVIDIA A10"
    with caplog.at_level(logging.INFO, "spd"), spd.load(engines) as model:
        assert model.backend == "onnxruntime-cpu"
    assert model.notes[0].endswith(rebuild(engines))
    assert model.notes[2].startswith("onnxruntime-cuda cannot run here")
    assert model.warned == [model.notes[0], model.notes[2]], "the bundle has no engines of TensorRT for RTX"
    assert warnings_of(caplog) == [
        f"onnxruntime-cpu fp32 is used for {engines}, slower than what it was made for: {'; '.join(model.warned)}"
    ]
    assert len(caplog.records) == 2


@pytest.mark.parametrize(("precision", "warns"), [("fp32", True), ("fp16", False)])
def test_a_missing_tensorrt_is_a_warning_where_there_are_engines_to_run(
    engines: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    precision: str,
    warns: bool,
) -> None:
    """They are fp32; and there is no GPU, so that nothing else is missed."""
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setattr("spd.runtime.devices.cuda_missing", lambda: "no NVIDIA driver")
    with caplog.at_level(logging.INFO, "spd"), spd.load(engines, precision=precision) as model:
        assert (model.backend, model.precision) == ("onnxruntime-cpu", precision)
        assert model.warned == model.notes[: int(warns)]
    assert len(warnings_of(caplog)) == int(warns)
    assert all("tensorrt is missing: pip install 'spd-depth[tensorrt]'" in text for text in warnings_of(caplog))


def test_tensorrt_itself_warns_of_nothing(engines: Path, tensorrt_11: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "spd"), spd.load(engines) as model:
        assert (model.backend, model.warned) == ("tensorrt", [])
    assert warnings_of(caplog) == []


def test_one_module_uses_cuda() -> None:
    """So that every call of it is checked in one place."""
    root = Path(spd.__file__).parents[1]
    use = re.compile(r"^\s*(import|from) cuda\b|import_cuda\(|import_module\(\"cuda", re.MULTILINE)
    users = {
        path.relative_to(root).as_posix()
        for folder in ("spd", "export", "engines", "calib")
        for path in (root / folder).rglob("*.py")
        if use.search(path.read_text(encoding="utf-8"))
    }
    assert users == {"spd/runtime/tensorrt/cuda.py", "spd/runtime/packages.py"}
