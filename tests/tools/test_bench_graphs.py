"""What the compared graphs are, and how their multiply-accumulates are counted."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import tools.bench.graphs
from spd.bundle import open_bundle
from spd.config import PRESETS
from spd.models import seeded
from tools.bench.graphs import CALIBRATION_IMAGES, Wanted, make_graphs, prepare
from tools.bench.literal import LiteralDecoder, LiteralEncoder, flatten, unflatten
from tools.bench.macs import macs_of, macs_of_file
from tools.bench.rows import Row
from tools.bench.subject import Inputs
from tools.bench.subjects import dense_size, make_subject
from tools.bench.worker import WorkerError

ATTO = PRESETS["atto"]


@pytest.mark.parametrize(
    ("network", "size", "dense"),
    [
        ("dav2s", (480, 640), (476, 644)),
        ("dav2s", (256, 320), (252, 322)),
        ("dav2s", (32, 32), (28, 28)),
        ("dav2s", (5, 5), (14, 14)),
        ("yolo26n", (480, 640), (480, 640)),
        ("yolo26m", (5, 50), (32, 64)),
    ],
)
def test_the_dense_networks_size(network: str, size: tuple[int, int], dense: tuple[int, int]) -> None:
    assert dense_size(network, *size) == dense


def convolutions(tmp_path: Path) -> tuple[Path, torch.nn.Module]:
    """A graph with a convolution, one backwards and a product, and the same in torch."""
    helper, float32 = onnx.helper, onnx.TensorProto.FLOAT
    weights = {"w": (4, 3, 3, 3), "t": (4, 6, 2, 2), "m": (8, 5)}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("ConvTranspose", ["a", "t"], ["b"], "back", strides=[2, 2]),
        helper.make_node("MatMul", ["b", "m"], ["c"], "product"),
    ]
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", float32, (1, 3, 6, 4))],
        [helper.make_tensor_value_info("c", float32, (1, 6, 12, 5))],
        [onnx.numpy_helper.from_array(torch.zeros(shape).numpy(), name) for name, shape in weights.items()],
    )
    path = tmp_path / "test.onnx"
    onnx.save(onnx.shape_inference.infer_shapes(helper.make_model(graph)), path)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, padding=1, bias=False),
        torch.nn.ConvTranspose2d(4, 6, 2, stride=2, bias=False),
        torch.nn.Linear(8, 5, bias=False),
    )
    return path, module


def test_multiply_accumulates_are_those_that_torch_counts(tmp_path: Path) -> None:
    path, module = convolutions(tmp_path)
    with FlopCounterMode(display=False) as counter:
        module(torch.zeros(1, 3, 6, 4))
    assert macs_of_file(path) == counter.get_total_flops() // 2
    assert macs_of(onnx.load(path).graph) == 4 * 24 * 27 + 4 * 24 * 24 + 6 * 12 * 8 * 5


def test_the_literal_graphs_compute_the_network() -> None:
    model = seeded(ATTO)
    image = torch.randint(0, 256, (1, 128, 160, 3), dtype=torch.uint8)
    points = torch.tensor([[[0.5, 0.5], [80.0, 64.0], [159.0, 3.25]]])
    with torch.inference_mode():
        tensors = LiteralEncoder(model)(image)
        depth = LiteralDecoder(model, 128, 160)(*tensors, points)
        expected = model(image.permute(0, 3, 1, 2) / 255, points)
    assert torch.equal(depth, expected)
    again = flatten(unflatten(tensors, 128, 160, ATTO.b3_layers))
    assert [id(tensor) for tensor in again] == [id(tensor) for tensor in tensors]


def test_graphs_are_made_again_when_their_sources_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "root"
    source = root / "spd" / "config.py"
    source.parent.mkdir(parents=True)
    source.write_text("a = 1")
    monkeypatch.setattr(tools.bench.graphs, "ROOT", root)
    wanted = Wanted("spd", ATTO, 160, 192)
    before = wanted.folder(tmp_path)
    assert before.parent == tmp_path / "spd-atto-160x192"
    assert wanted.folder(tmp_path) == before
    other = dataclasses.replace(ATTO, r_max=5.0)
    assert Wanted("spd", other, 160, 192).folder(tmp_path).parent.name == "spd-custom-160x192"
    assert Wanted("dav2s", other, 160, 192).folder(tmp_path) == Wanted("dav2s", ATTO, 160, 192).folder(tmp_path)
    assert Wanted("spd", ATTO, 160, 192, int8=True).folder(tmp_path).parent.name == "spd-atto-160x192-int8"
    source.write_text("a = 2")
    assert wanted.folder(tmp_path).name != before.name
    assert wanted.folder(tmp_path).parent == before.parent


class Made:
    """A worker that makes an empty folder, or none for a literal network."""

    running = 0
    most = 0

    def __init__(self, _make: object, wanted: Wanted, folder: Path) -> None:
        self.wanted, self.folder = wanted, folder
        Made.running += 1
        Made.most = max(Made.most, Made.running)

    def made(self) -> None:
        if self.wanted.network == "literal":
            raise WorkerError("it broke")
        self.folder.mkdir(parents=True)

    def close(self) -> None:
        Made.running -= 1


def test_what_is_there_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools.bench.graphs, "Worker", Made)
    said: list[str] = []
    wanted = [Wanted(network, ATTO, 160, side) for side in (192, 224) for network in ("spd", "literal", "dav2s", "spd")]
    found = prepare(wanted, tmp_path, 2, said.append)
    assert len(found) == 6
    assert Made.most == 2
    assert Made.running == 0
    for one, folder in found.items():
        if one.network == "literal":
            assert isinstance(folder, WorkerError)
        else:
            assert isinstance(folder, Path)
            assert folder.is_dir()
    assert "exporting spd for 160x192" in said[0]
    assert "untrained" in said[0]
    done = [text.partition(" after")[0] for text in said if " of 6 after " in text]
    assert done[:2] == ["exported spd: 1 of 6", "could not export literal: 2 of 6"]
    assert len(done) == len(said) - len(done) == 6
    said.clear()
    prepare([one for one in wanted if one.network != "literal"], tmp_path, 2, said.append)
    assert said == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_bundle_with_8_bits_for_timing(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "made"
    make_graphs(Wanted("spd", ATTO, 128, 160, int8=True), folder)
    manifest = open_bundle(folder).manifest
    assert {"fp32", "int8"} <= {*manifest.precisions}
    assert manifest.calibration is not None
    assert manifest.calibration.images == CALIBRATION_IMAGES
    image = np.random.default_rng(0).integers(0, 256, (1, 128, 160, 3), dtype=np.uint8)
    inputs = Inputs(image, np.array([[[10.0, 20.0], [90.0, 5.0]]], np.float32), threads=1)
    depths = []
    for backend in ("onnxruntime-cpu", "onnxruntime-cpu:int8"):
        subject = make_subject(Row("spd", backend), folder, inputs)
        subject.encode()
        depths.append(subject.decode(2))
    assert 0 < np.abs(depths[1] / depths[0] - 1).max() < 0.1
