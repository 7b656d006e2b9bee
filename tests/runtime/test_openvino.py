"""What is OpenVINO's own: precisions, requests that keep no scene, errors in its words, and no telemetry."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import spd
from spd.bundle import open_bundle
from spd.errors import BackendError
from spd.runtime.openvino_backend import OpenVinoBackend
from spd.runtime.packages import import_openvino

openvino = import_openvino()

BF16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@pytest.fixture
def backend(exported: Path) -> OpenVinoBackend:
    return OpenVinoBackend(open_bundle(exported), "fp32", threads=1)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Of each graph that is compiled: the number of inputs, the shape of the last one, and the settings."""
    real, seen = openvino.Core.compile_model, []

    def compile_model(core: Any, model: Any, device: str, settings: dict[str, Any]) -> Any:
        seen.append((len(model.inputs), tuple(model.inputs[-1].shape), device, settings))
        return real(core, model, device, settings)

    monkeypatch.setattr(openvino.Core, "compile_model", compile_model)
    return seen


def test_sizes_of_tiles_are_compiled_once(exported: Path, compiled: list[tuple[Any, ...]]) -> None:
    """When they are needed; float32 is asked for, whatever the CPU can do."""
    with spd.load(exported, "openvino", threads=1) as model:
        scene = model.encode(np.zeros((160, 192, 3), np.uint8))
        assert len(compiled) == 1, "the encoder"
        for count in (64, 65, 3, 8, 12, 16, 17, 300, 64, 1):
            assert scene.depth(np.ones((count, 2))).shape == (count,)
    assert [shape for inputs, shape, *_ in compiled if inputs > 1] == [(1, size, 2) for size in (64, 8, 16, 32)]
    for *_, device, settings in compiled:
        assert device == "CPU"
        assert (settings["INFERENCE_PRECISION_HINT"], settings["EXECUTION_MODE_HINT"]) == ("f32", "ACCURACY")


@pytest.mark.skipif(not BF16, reason="this CPU has no bfloat16")
def test_bf16_is_for_the_encoder_and_needs_no_graphs_of_its_own(
    bundle: Path, compiled: list[tuple[Any, ...]], rooms, points: NDArray[np.float64]
) -> None:
    for path in bundle.glob("*.bf16.onnx"):
        path.unlink()
    with spd.load(bundle, precision="bf16") as model:
        assert (model.backend, model.precision) == ("openvino", "bf16")
        assert model.notes[-1].startswith("onnxruntime-cpu cannot run bf16")
        rounded = model.encode(rooms[0]).depth(points)
        assert {settings["INFERENCE_PRECISION_HINT"] for *_, settings in compiled[1:]} == {"f32"}
        assert compiled[0][-1]["INFERENCE_PRECISION_HINT"] == "bf16"
    with spd.load(bundle, "openvino") as model:
        exact = model.encode(rooms[0]).depth(points)
    assert 1e-5 < np.abs(rounded / exact - 1).mean() < 1e-2


def test_bf16_on_a_cpu_without_it(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino.Core, "get_property", lambda *_: ["FP32", "FP16", "INT8"])
    with pytest.raises(BackendError, match=r"^openvino cannot run bf16 here: this CPU has no bfloat16 .*; take fp32$"):
        spd.load(exported, "openvino", precision="bf16")
    with spd.load(exported, "openvino") as model:
        assert model.precision == "fp32"


def addresses(tensors: Iterable[Any]) -> set[int]:
    return {tensor.data.ctypes.data for tensor in tensors}


@pytest.mark.parametrize("fails", [False, True])
def test_no_request_keeps_a_cache(backend: OpenVinoBackend, rooms, points: NDArray[np.float64], fails: bool) -> None:
    """Its memory goes with the scene, also after a run that failed."""
    cache = backend.encode(rooms[0][None])
    query = points[None, :70].astype(np.float32)
    if fails:
        broken = {**cache, "l4_routed": openvino.Tensor(np.zeros(3, np.float32))}  # the last one that is bound
        with pytest.raises(BackendError, match=r"^openvino failed: .*incompatible") as caught:
            backend.decode(broken, query)
        assert "\n" not in str(caught.value)
    else:
        backend.decode(cache, query)
    requests = [each._free.get(timeout=9) for each in (backend._encoder, *backend._decoders.values())]
    assert len(requests) == (2 if fails else 3)  # of 70 points 64, then 6
    for request in requests:
        ports = [port for port in (*request.model_inputs, *request.model_outputs) if port.any_name in cache]
        assert len(ports) == len(cache)
        assert not addresses(cache.values()) & addresses(map(request.get_tensor, ports))


def test_an_image_that_cannot_be_written_to(backend: OpenVinoBackend, rooms) -> None:
    image = rooms[0][None].copy()
    image.flags.writeable = False
    expected = backend.encode(rooms[0][None])
    for name, tensor in backend.encode(image).items():
        np.testing.assert_array_equal(tensor.data, expected[name].data)


def test_an_operator_that_it_does_not_know(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names it, without the places in OpenVINO's sources."""
    path = bundle / "encoder.fp32.onnx"
    graph = onnx.load(path)
    graph.graph.node[-1].op_type = "Nonsense"
    path.unlink()  # as it is linked to the shared one
    onnx.save(graph, path)
    monkeypatch.setattr("spd.bundle.Bundle.file", lambda self, name: self.path / name)
    with pytest.raises(BackendError, match=r"^openvino cannot load .*encoder.fp32.onnx: .*Nonsense") as caught:
        spd.load(bundle, "openvino")
    assert "\n" not in str(caught.value)
    assert ".cpp" not in str(caught.value)


QUIET = """
import sys
from spd.runtime.packages import import_openvino
openvino = import_openvino()
assert openvino.__version__ and openvino.convert_model
assert not [name for name in sys.modules if name.startswith("openvino_telemetry")]
import openvino_telemetry  # who wants it still has it
"""


def test_its_import_sends_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    environment = {**os.environ, "HOME": str(tmp_path), "USERPROFILE": str(tmp_path)}
    environment.pop("CI", None)
    done = subprocess.run(
        [sys.executable, "-c", QUIET], env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []
