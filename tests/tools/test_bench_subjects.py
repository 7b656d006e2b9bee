"""What is timed computes the depth: every runtime that is here says the same of the same points."""

from __future__ import annotations

import importlib.util
import os
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tools.bench.dense
from engines.profile.run import inputs as make_inputs
from spd.bundle import open_bundle
from spd.config import PRESETS
from spd.errors import BackendError, SPDError
from spd.runtime.packages import import_openvino
from tools.bench.dense import export_dense, make_yolo
from tools.bench.growth import PublicScene
from tools.bench.rows import Row
from tools.bench.subject import ENCODE, Inputs, Subject
from tools.bench.subjects import DenseOpenVino, MatrixProduct, OnnxRuntime, dense_image, make_subject
from tools.bench.torch_subject import TorchLiteral

COUNT = 24

needs_openvino = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is not installed")


def has_bfloat16() -> bool:
    return "BF16" in import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@pytest.fixture(scope="module")
def inputs(exported: Path) -> Inputs:
    manifest = open_bundle(exported).manifest
    return Inputs(*make_inputs(manifest.height, manifest.width, COUNT), threads=1)


def depth_of(subject: Subject) -> Any:
    """After another K and another encoding, as in the rounds."""
    subject.prepare(ENCODE)
    subject.decode(1)
    subject.encode()
    return subject.decode(COUNT).copy()


@pytest.fixture(scope="module")
def expected(exported: Path, inputs: Inputs) -> Any:
    depth = depth_of(make_subject(Row("spd", "onnxruntime-cpu"), exported, inputs))
    assert depth.shape == (1, COUNT)
    assert len(np.unique(depth)) > COUNT // 2
    return depth


def test_the_literal_form_in_torch(expected: Any, inputs: Inputs, tmp_path: Path) -> None:
    # The exported bundle has the weights of `seeded`, too.
    subject = TorchLiteral(Row("literal", "torch"), PRESETS["atto"], tmp_path, inputs)
    np.testing.assert_allclose(depth_of(subject), expected, rtol=1e-4)
    kept = subject.kept_mb()
    assert kept is not None
    assert 0.5 < kept < 2


@needs_openvino
def test_openvino(exported: Path, expected: Any, inputs: Inputs) -> None:
    subject = make_subject(Row("spd", "openvino"), exported, inputs)
    np.testing.assert_allclose(depth_of(subject), expected, rtol=1e-4)
    assert subject.kept_mb() == pytest.approx(1.122048)


@needs_openvino
def test_openvino_in_bfloat16(exported: Path, expected: Any, inputs: Inputs) -> None:
    if not has_bfloat16():
        with pytest.raises(BackendError, match="no bfloat16"):
            make_subject(Row("spd", "openvino:bf16"), exported, inputs)
        return
    depth = depth_of(make_subject(Row("spd", "openvino:bf16"), exported, inputs))
    assert 0 < np.abs(depth / expected - 1).max() < 0.05


@pytest.mark.parametrize("backend", ["onnxruntime-cpu:int8", "openvino:int8"])
def test_eight_bits_of_a_bundle_without_them(exported: Path, inputs: Inputs, backend: str) -> None:
    with pytest.raises(SPDError, match="int8"):
        make_subject(Row("spd", backend), exported, inputs)


def test_the_public_interface(exported: Path, expected: Any, inputs: Inputs) -> None:
    subject = PublicScene(exported, inputs.image[0], inputs.points[0], threads=1)
    np.testing.assert_allclose(depth_of(subject), expected, rtol=1e-5)


def test_a_batch(exported: Path, expected: Any, inputs: Inputs) -> None:
    bundle = open_bundle(exported)
    files = {graph: bundle.graph(graph, "fp32") for graph in ("encoder", "decoder")}
    twice = Inputs(inputs.image.repeat(2, axis=0), inputs.points.repeat(2, axis=0), threads=1)
    subject = OnnxRuntime("onnxruntime-cpu", files, twice.image, twice)
    np.testing.assert_allclose(depth_of(subject), expected.repeat(2, axis=0), rtol=1e-4)
    assert subject.kept_mb() == pytest.approx(2 * 1.122048)


class Small(torch.nn.Module):
    """A dense network with a product by weights."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 16)

    def forward(self, image_B3HW: torch.Tensor) -> torch.Tensor:
        return self.layer(image_B3HW.permute(0, 2, 3, 1)).relu().mean(dim=-1)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dense")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tools.bench.dense, "DepthAnything", Small)
        export_dense("dav2s", 32, 64, folder, int8=True)
    return folder


@pytest.mark.parametrize("backend", ["onnxruntime-cpu", "openvino", "openvino:bf16", "openvino:int8"])
def test_a_dense_network(dense: Path, backend: str) -> None:
    row, given = Row("dav2s", backend), Inputs(np.zeros((1, 32, 64, 3), np.uint8), np.zeros((1, 1, 2), np.float32), 1)
    if row.runtime == "openvino" and importlib.util.find_spec("openvino") is None:
        pytest.skip("openvino is not installed")
    if row.precision == "bf16" and not has_bfloat16():
        with pytest.raises(BackendError, match="no bfloat16"):
            make_subject(row, dense, given)
        return
    subject = make_subject(row, dense, given)
    subject.encode()
    if isinstance(subject, DenseOpenVino):
        found = subject._request.get_output_tensor(0).data
    else:
        assert isinstance(subject, OnnxRuntime)
        found = subject._cache["depth"].numpy()
    torch.manual_seed(0)
    image = dense_image("dav2s", given)
    assert image.shape == (1, 3, 28, 70)
    with torch.inference_mode():
        right = Small()(torch.from_numpy(image)).numpy()
    error = np.abs(found - right).max()
    assert subject.kept_mb() is None, "nothing is asked of it later"
    assert error < 1e-5 if row.precision == "fp32" else 1e-5 < error < 0.05 * right.max()


def test_yolo_is_made_as_its_own_export_makes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Head(torch.nn.Identity):
        export = False

    class DepthModel(torch.nn.Sequential):
        def __init__(self, configuration: str, verbose: bool) -> None:
            super().__init__(torch.nn.Identity(), Head())
            self.configuration, self.fused = configuration, False
            settings = os.environ["YOLO_CONFIG_DIR"]
            assert Path(settings).is_dir()
            assert (os.environ["YOLO_OFFLINE"], os.environ["YOLO_AUTOINSTALL"]) == ("true", "false")

        def fuse(self, verbose: bool) -> DepthModel:
            self.fused = True
            return self

    for name in ("YOLO_CONFIG_DIR", "YOLO_OFFLINE", "YOLO_AUTOINSTALL"):
        monkeypatch.setenv(name, "")  # put back afterwards
    for name in ("ultralytics", "ultralytics.nn"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    tasks = types.SimpleNamespace(DepthModel=DepthModel)
    monkeypatch.setitem(sys.modules, "ultralytics.nn.tasks", tasks)
    made = make_yolo("yolo26s")
    assert isinstance(made, DepthModel)
    assert (made.configuration, made.fused, made.training) == ("yolo26s-depth.yaml", True, False)
    assert made[1].export


def test_the_dense_networks_image(inputs: Inputs) -> None:
    image = dense_image("dav2s", inputs)
    assert (image.shape, image.dtype) == ((1, 3, 154, 196), np.float32)
    assert 0.9 < image.std() < 1.1


def test_the_matrix_product_is_what_the_profiler_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fast:
        flops = 2e12

    monkeypatch.setattr("engines.profile.machine.measure", lambda settings, bandwidth: Fast)
    # 1024^3 multiply-accumulates at 10^12 a second.
    assert MatrixProduct("onnxruntime-cpu", threads=1).turn(ENCODE) == pytest.approx(1.073741824)
