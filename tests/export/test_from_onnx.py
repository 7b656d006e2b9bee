"""`spd-export --from-onnx`: graphs that were quantised elsewhere get into a bundle through its gate, or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import onnx
import pytest
from export_support import contents, refused, run
from onnx import numpy_helper
from quantise_support import few_rooms

from spd.bundle import GRAPHS, PARITY, open_bundle


@pytest.fixture
def source(quantised: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as a user brings it, with graphs in fp8."""
    few_rooms(monkeypatch)
    folder = tmp_path / "quantised"
    folder.mkdir()
    for graph in GRAPHS:
        shutil.copyfile(quantised / f"{graph}.fp8.onnx", folder / f"{graph}.onnx")
    return folder


def unchanged(bundle: Path, source: Path, *arguments: str, code: int = 1, said: str) -> None:
    before = contents(bundle)
    refused(run("--from-onnx", source, "--out", bundle, *arguments), code, said)
    assert contents(bundle) == before


def test_graphs_that_pass_are_published(bundle: Path, source: Path, quantised: Path) -> None:
    result = run("--from-onnx", source, "--out", bundle, "--precision", "fp8")
    assert result.exit_code == 0, result.output
    found = open_bundle(bundle)
    assert found.manifest.precisions == ("fp32", "fp16", "bf16", "fp8")
    ours, theirs = (json.loads((folder / PARITY).read_text())["fp8"]["rooms"] for folder in (bundle, quantised))
    assert ours["mean_change"] == pytest.approx(theirs["mean_change"], rel=1e-3)
    for graph in GRAPHS:
        assert len(onnx.load(found.graph(graph, "fp8")).graph.node) == len(
            onnx.load(source / f"{graph}.onnx").graph.node
        )
    unchanged(bundle, source, "--precision", "fp8", said="has fp8 graphs already; give --force")


def test_what_is_missing_or_other(bundle: Path, source: Path, exported: Path) -> None:
    fp8 = ("--precision", "fp8")
    unchanged(bundle, source, said="--from-onnx goes with one --precision of int8, int8-fp16, fp8", code=2)
    unchanged(bundle, source, *fp8, "--seed-checkpoint", "atto", said="leave out --seed-checkpoint", code=2)
    unchanged(bundle, source, "--precision", "int8-fp16", said="are quantised to float8e4m3fn, expected int8")
    unchanged(bundle, source, "--precision", "int8", said="l1_map is float16 [B, ")
    decoder = (source / "decoder.onnx").read_bytes()
    shutil.copyfile(source / "encoder.onnx", source / "decoder.onnx")
    unchanged(bundle, source, *fp8, said="its inputs are image, expected l1_map, ")
    (source / "decoder.onnx").write_bytes(b"no graph")
    unchanged(bundle, source, *fp8, said="decoder.onnx cannot be read as ONNX")
    (source / "decoder.onnx").unlink()
    unchanged(bundle, source, *fp8, said="holds no decoder.onnx, expected encoder.onnx and decoder.onnx")
    (source / "decoder.onnx").write_bytes(decoder)
    for graph in GRAPHS:
        shutil.copyfile(exported / f"{graph}.fp16.onnx", source / f"{graph}.onnx")
    unchanged(bundle, source, *fp8, said="have no DequantizeLinear, expected float8e4m3fn")


def test_graphs_beyond_the_gate_leave_the_bundle_as_it_was(bundle: Path, source: Path) -> None:
    model = onnx.load(source / "encoder.onnx")
    weights = {n.input[1] for n in model.graph.node if n.op_type == "QuantizeLinear"}
    for tensor in model.graph.initializer:
        if tensor.name in weights:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) / 64, tensor.name))
    onnx.save(model, source / "encoder.onnx")
    unchanged(bundle, source, "--precision", "fp8", said="are too far from the float32 ones")
