"""Which backend `spd.load` takes, and what it says when it cannot take the one that was asked for."""

from __future__ import annotations

import ctypes
import json
import logging
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import onnxruntime
import pytest

import spd
from spd.checkpoint import save_checkpoint
from spd.commands.infer import cli
from spd.config import PRESETS
from spd.errors import BackendError, BundleError, CheckpointError, SPDError
from spd.models import seeded
from spd.runtime import BACKENDS
from spd.runtime.devices import check_gpu, cuda_missing, gpus

NO_GPU = "no NVIDIA driver"


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without a GPU, also where there is one."""
    monkeypatch.setattr("spd.runtime.available.cuda_missing", lambda: NO_GPU)
    monkeypatch.setattr("spd.runtime.devices.cuda_missing", lambda: NO_GPU)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine with a GPU, as far as the driver and the package tell."""
    monkeypatch.setattr("spd.runtime.available.cuda_missing", lambda: None)
    monkeypatch.setattr("spd.runtime.devices.cuda_missing", lambda: None)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print("Failed to load libcudnn.so.9"))  # noqa: T201


def without(monkeypatch: pytest.MonkeyPatch, *missing: str) -> None:
    """As if these packages were not installed."""
    monkeypatch.setattr("spd.runtime.available.find_spec", lambda name: None if name in missing else SimpleNamespace())


def test_the_command_offers_the_backends_of_the_library() -> None:
    (option,) = (parameter for parameter in cli.main.params if parameter.name == "backend")
    assert isinstance(option.type, click.Choice)
    assert ("auto", *BACKENDS) == tuple(option.type.choices)


@pytest.mark.usefixtures("no_gpu")
def test_auto_takes_the_cpu_and_says_why(exported: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="spd"), spd.load(exported.parent) as model:
        assert (model.backend, model.precision, model.size) == ("onnxruntime-cpu", "fp32", (160, 192))
        assert model.manifest is not None
        assert model.manifest.preset == "atto"
        assert len(model.notes) == 3
        assert model.notes[0].startswith("tensorrt cannot run")
        assert model.notes[1].startswith("tensorrt-rtx cannot run")
        assert model.notes[2] == f"onnxruntime-cuda cannot run here: {NO_GPU}"
        assert model.warned == [], "it has no engines, and here is no GPU"
    records = [record for record in caplog.records if record.name == "spd"]
    assert {record.levelno for record in records} == {logging.INFO}
    first, second, third, last = (record.getMessage() for record in records)
    assert first.startswith("tensorrt not used: tensorrt cannot run")
    assert second.startswith("tensorrt-rtx not used: tensorrt-rtx cannot run")
    assert third == f"onnxruntime-cuda not used: {model.notes[2]}"
    assert last == f"onnxruntime-cpu fp32 is used for {exported}"


@pytest.mark.parametrize("precision", [None, "fp32", "fp16"])
def test_a_backend_asked_for_by_name_is_used(exported: Path, precision: str | None) -> None:
    with spd.load(str(exported), backend="onnxruntime-cpu", precision=precision, threads=1) as model:
        assert (model.backend, model.precision, model.notes) == ("onnxruntime-cpu", precision or "fp32", [])


def test_a_checkpoint_takes_torch(checkpoint: Path) -> None:
    with spd.load(checkpoint, size=(160, 192)) as model:
        assert (model.backend, model.precision, model.manifest, model.notes) == ("torch", "fp32", None, [])


@pytest.mark.parametrize(
    ("trained", "asked", "expected"),
    [
        ((160, 192), None, (160, 192)),
        ((160, 192), (128, 160), (128, 160)),
        (None, (160, 192), (160, 192)),
        (None, None, (480, 640)),
    ],
)
def test_a_checkpoint_s_size_is_what_it_was_trained_at(
    tmp_path: Path,
    trained: tuple[int, int] | None,
    asked: tuple[int, int] | None,
    expected: tuple[int, int],
) -> None:
    save_checkpoint(tmp_path / "a.pt", seeded(PRESETS["atto"]), PRESETS["atto"], size=trained)
    with spd.load(tmp_path / "a.pt", size=asked) as model:
        assert model.size == expected


BUNDLE_REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": ({"backend": "cuda"}, "there is no backend 'cuda'; choose one of: auto, tensorrt"),
    "tensorrt": ({"backend": "tensorrt"}, "tensorrt cannot run"),
    "cuda": ({"backend": "onnxruntime-cuda"}, f"onnxruntime-cuda cannot run here: {NO_GPU}"),
    "torch": ({"backend": "torch"}, "torch runs checkpoints, .* is a bundle; give the checkpoint"),
    "fp16 on OpenVINO": (
        {"backend": "openvino", "precision": "fp16"},
        "openvino cannot run fp16: fp16 graphs are for GPUs; of the precisions of .* it runs fp32, bf16: take one",
    ),
    "bf16 on a CPU": (
        {"backend": "onnxruntime-cpu", "precision": "bf16"},
        "cannot run bf16: it has no bfloat16; .* fp32, fp16: take",
    ),
    "int8 on TensorRT": (
        {"backend": "tensorrt", "precision": "int8"},
        "tensorrt cannot run int8: int8 graphs are for CPUs; .* it runs fp16, bf16, fp32: take one of those$",
    ),
    "int8-fp16 on OpenVINO": (
        {"backend": "openvino", "precision": "int8-fp16"},
        "openvino cannot run int8-fp16: int8-fp16 graphs are for TensorRT; .* it runs fp32, bf16: take one of those$",
    ),
    "precision": ({"precision": "fp4"}, "there is no precision 'fp4'; choose one of: fp32, fp16, bf16"),
    "weights": ({"weights": "raw"}, "is not a checkpoint; only a checkpoint has raw weights to choose"),
    "threads": ({"threads": 0}, "threads is 0, expected at least 1"),
}


@pytest.mark.parametrize(("options", "message"), BUNDLE_REFUSED.values(), ids=BUNDLE_REFUSED)
@pytest.mark.usefixtures("no_gpu")
def test_refused_for_a_bundle(exported: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(BackendError, match=message) as caught:
        spd.load(exported, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("no_gpu")
def test_bf16_where_nothing_can_run_it(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    every = rf"tensorrt.*{NO_GPU}.*onnxruntime-cpu cannot run bf16.*openvino is missing.*torch runs checkpoints"
    with pytest.raises(BackendError, match=f"no backend can run .*{every}"):
        spd.load(exported, precision="bf16")


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("backend", ["auto", "onnxruntime-cpu"])
def test_a_precision_that_the_bundle_lacks(bundle: Path, backend: str) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    del manifest["graphs"]["fp16"]
    (bundle / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(BundleError, match="has no fp16 graphs, only fp32, bf16; export with --precision fp16"):
        spd.load(bundle, backend=backend, precision="fp16")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "onnxruntime-cpu"}, r"onnxruntime-cpu runs bundles, but .* is a checkpoint; .*spd-export --ckpt"),
        ({"backend": "tensorrt"}, "tensorrt runs bundles"),
        ({"precision": "fp16"}, "the torch backend runs fp32, not fp16"),
        ({"size": (128, 128)}, "has 16 L4 tokens"),
        ({"weights": "best"}, "there are no weights 'best'; choose one of: auto, averaged, raw"),
    ],
)
def test_refused_for_a_checkpoint(checkpoint: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(BackendError, match=message):
        spd.load(checkpoint, **options)


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none.pt does not exist"):
        spd.load(tmp_path / "none.pt")
    with pytest.raises(BundleError, match="does not exist"):
        spd.load(tmp_path / "none")
    (tmp_path / "folder.pt").mkdir()  # a folder is a bundle's, whatever its name
    with pytest.raises(BundleError, match=r"folder.pt holds no bundle"):
        spd.load(tmp_path / "folder.pt")


def test_missing_packages(monkeypatch: pytest.MonkeyPatch, checkpoint: Path, exported: Path) -> None:
    without(monkeypatch, "torch")
    with pytest.raises(BackendError, match=r"torch missing: pip install 'spd-depth\[export\]'"):
        spd.load(checkpoint)
    without(monkeypatch, "timm", "safetensors")  # torch may be there for other reasons
    with pytest.raises(BackendError, match="timm, safetensors missing: pip install"):
        spd.load(checkpoint)
    without(monkeypatch, "onnxruntime")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(BackendError, match=r"^openvino cannot run here: openvino is missing: pip .*\[openvino\]'$"):
        spd.load(exported, backend="openvino")
    for backend in ("auto", "onnxruntime-cpu", "onnxruntime-cuda"):
        with pytest.raises(BackendError, match="onnxruntime is missing: pip install spd-depth"):
            spd.load(exported, backend=backend)


class Broken:
    """An import of ONNX Runtime that fails."""

    def __init__(self, cause: BaseException | None) -> None:
        self.cause = cause

    def find_spec(self, name: str, *_: object) -> None:
        if name == "onnxruntime":
            raise ImportError("libonnxruntime.so.1: cannot open\nshared object file") from self.cause


@pytest.mark.parametrize(
    ("cause", "error", "message"),
    [
        (None, BackendError, r"onnxruntime cannot be loaded \(libonnxruntime.so.1: cannot open\); install it again$"),
        (KeyboardInterrupt(), KeyboardInterrupt, "^$"),
    ],
)
def test_an_onnxruntime_that_cannot_be_imported(  # Ctrl-C during its import comes as an ImportError
    exported: Path,
    monkeypatch: pytest.MonkeyPatch,
    cause: BaseException | None,
    error: type[BaseException],
    message: str,
) -> None:
    without(monkeypatch)  # so that the package is found before it is imported
    monkeypatch.delitem(sys.modules, "onnxruntime")
    monkeypatch.setattr(sys, "meta_path", [Broken(cause), *sys.meta_path])
    with pytest.raises(error, match=message):
        spd.load(exported, backend="onnxruntime-cpu")


def cpu_only(path: str, *_: Any, providers: list[Any], **__: Any) -> Any:
    """A session that fell back to the CPU without a word, as when libcudart is not found."""
    return SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"])


def raises(path: str, *_: Any, **__: Any) -> Any:
    raise RuntimeError("CUDA failure 35: driver too old\n  at cuda_call.cc:129")


@pytest.mark.parametrize(
    ("session", "message"),
    [
        (cpu_only, "onnxruntime-cuda cannot run here: ONNX Runtime .* fell back to CPUExecutionProvider; .*cuDNN"),
        (raises, r"onnxruntime-cuda cannot load .*encoder.fp16.onnx: CUDA failure 35: driver too old$"),
    ],
)
@pytest.mark.usefixtures("gpu")
def test_cuda_that_does_not_work_is_an_error(
    exported: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    session: Callable[..., Any],
    message: str,
) -> None:
    """Never the CPU instead; and nothing on stdout, where results go, not even what the preload prints."""
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    with caplog.at_level(logging.INFO, logger="spd"), pytest.raises(BackendError, match=message) as caught:
        spd.load(exported, backend="onnxruntime-cuda")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().out == ""
    assert "onnxruntime: Failed to load libcudnn.so.9" in caplog.messages


@pytest.mark.usefixtures("gpu")
def test_auto_goes_on_to_the_cpu(
    exported: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    real = onnxruntime.InferenceSession

    def session(path: str, options: Any, providers: list[Any], **others: Any) -> Any:
        make = real if providers == ["CPUExecutionProvider"] else raises
        return make(path, options, providers=providers, **others)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    with spd.load(exported) as model:
        assert (model.backend, model.precision) == ("onnxruntime-cpu", "fp32")
        assert "driver too old" in model.notes[2]
        assert model.warned == [model.notes[2]]
    with spd.load(exported, precision="fp32") as model:
        assert model.warned == [], "float32 graphs are for a CPU"
    with spd.load(exported, precision="fp16") as model:
        assert (model.backend, model.warned) == ("onnxruntime-cpu", [model.notes[2]])
    assert [record.levelname for record in caplog.records if record.name == "spd"] == ["WARNING"] * 2
    assert capfd.readouterr().out == ""


def test_onnxruntime_without_cuda(monkeypatch: pytest.MonkeyPatch, exported: Path) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(BackendError, match=r"built without CUDA; pip install onnxruntime-gpu$"):
        spd.load(exported, backend="onnxruntime-cuda")


@pytest.mark.parametrize("backend", ["onnxruntime-cpu", "openvino"])
def test_a_graph_that_is_no_graph(bundle: Path, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (bundle / "decoder.fp32.onnx").unlink()  # as it is linked to the shared one
    shutil.copy(bundle / "parity.json", bundle / "decoder.fp32.onnx")
    with pytest.raises(BundleError, match="is not the file that was exported"):
        spd.load(bundle, backend=backend)
    monkeypatch.setattr("spd.bundle.Bundle.file", lambda self, name: self.path / name)
    with pytest.raises(BackendError, match=rf"{backend} cannot load .*decoder.fp32.onnx: ") as caught:
        spd.load(bundle, backend=backend)
    assert isinstance(caught.value, SPDError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("init", "count", "expected"),
    [(0, 2, None), (0, 0, "the NVIDIA driver finds no GPU"), (100, 0, "the NVIDIA driver reports error 100")],
)
def test_the_driver_is_asked(monkeypatch: pytest.MonkeyPatch, init: int, count: int, expected: str | None) -> None:
    def get_count(pointer: Any) -> int:
        pointer._obj.value = count
        return 0

    driver = SimpleNamespace(cuInit=lambda flags: init, cuDeviceGetCount=get_count)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    monkeypatch.setattr("spd.runtime.devices.gpus", gpus.__wrapped__)
    assert cuda_missing() == expected
    if expected is None:
        check_gpu(count - 1)
        with pytest.raises(BackendError, match=r"^device is 2, expected the number of a GPU from 0 to 1$"):
            check_gpu(count)
    else:
        with pytest.raises(BackendError, match=f"^device is 0, but {expected}$"):
            check_gpu(0)


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    monkeypatch.setattr("spd.runtime.devices.gpus", gpus.__wrapped__)
    assert str(cuda_missing()).startswith("no NVIDIA driver (")
