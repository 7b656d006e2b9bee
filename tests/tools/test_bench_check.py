"""Counted costs are the committed ones; `python -m tools.bench_check --update` writes them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
from click.testing import CliRunner
from rtx_support import needs_rtx

import tools.bench_check
from engines.profile.cli import main as profile
from export.graphs import GraphPair
from spd.bundle import open_bundle
from tools.bench_check import (
    ATTO,
    KERNEL_FIGURES,
    KERNEL_POINTS,
    TINY,
    counts_of_bundle,
    counts_of_case,
    counts_of_kernels,
    differences,
    main,
    read_committed,
    written_bytes,
)


def test_atto_costs_what_was_committed(exported: Path) -> None:
    found = counts_of_bundle(open_bundle(exported))
    assert set(found) == {*ATTO.precisions, "runtime"}
    assert not list(differences(read_committed(), {ATTO.name: found}))


@needs_rtx
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_tiny_costs_what_was_committed() -> None:
    found = counts_of_case(TINY)
    assert set(found) == set(TINY.precisions)
    assert not list(differences(read_committed(), {TINY.name: found}))


def test_what_is_committed_is_what_is_promised() -> None:
    counts = read_committed()["counts"]
    assert set(counts) == {ATTO.name, TINY.name}
    assert set(counts[TINY.name]) == set(TINY.precisions)
    tiny = counts[TINY.name]["fp32"]
    assert tiny["decoder_macs_per_point"] < 25.1e6 / 3.8, "design: a quarter of the literal form's arithmetic"
    assert tiny["decoder_macs_once"] == 0, "nothing of an image is computed again for a query"
    assert set(KERNEL_FIGURES) <= set(counts[TINY.name]["fp16"])
    assert tiny["scene_bytes"] == 2 * counts[TINY.name]["fp16"]["scene_bytes"]
    assert counts[ATTO.name]["runtime"]["retained_blocks_per_call"] == 0


@needs_rtx
def test_kernels_are_those_that_spd_profile_counts(exported: Path, tmp_path: Path) -> None:
    graphs = GraphPair(*(ir.load(exported / f"{graph}.fp16.onnx") for graph in ("encoder", "decoder")))
    counts = counts_of_kernels(graphs, open_bundle(exported).manifest.contract)
    arguments = [str(exported), "--kernels", "--points", str(KERNEL_POINTS), "--out", str(tmp_path / "k.json")]
    assert CliRunner().invoke(profile, arguments).exit_code == 0
    documents = json.loads((tmp_path / "k.json").read_text())["graphs"]
    assert list(counts.values()) == [document[key] for document in documents for key in ("kernels", "bytes")]


def test_written_bytes_by_hand() -> None:
    x = ir.Value(name="x", shape=ir.Shape(["B", "K", 2]), type=ir.TensorType(ir.DataType.FLOAT))
    nodes = []
    for op_type, dtype in (("Mul", ir.DataType.FLOAT), ("Cast", ir.DataType.FLOAT16), ("Reshape", ir.DataType.FLOAT16)):
        node = ir.node(op_type, [x])
        node.outputs[0].shape, node.outputs[0].type = ir.Shape(["B", "K", 3]), ir.TensorType(dtype)
        nodes.append(node)
    model = ir.Model(ir.Graph([x], nodes[-1].outputs, nodes=nodes), ir_version=10)
    assert written_bytes(model, 5) == 5 * 3 * (4 + 2)


@pytest.fixture
def committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of its own, and two figures that were counted."""
    path = tmp_path / "counts.json"
    document = {"versions": tools.bench_check.versions(), "counts": {"a": {"fp32": {"encoder_macs": 1000}}}}
    path.write_text(json.dumps(document))
    monkeypatch.setattr(tools.bench_check, "COMMITTED", path)
    monkeypatch.setattr(tools.bench_check, "count_all", lambda: copy.deepcopy(COUNTED))
    return path


COUNTED = {"a": {"fp32": {"encoder_macs": 1234, "encoder_nodes": 5}}}


def test_a_change_is_an_error_and_update_accepts_it(committed: Path) -> None:
    done = CliRunner().invoke(main)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        "Error: 2 figures changed; if that is meant: python -m tools.bench_check --update",
        "a fp32: encoder_macs is 1,234, 1,000 committed",
        "a fp32: encoder_nodes is 5, not committed",
    ]
    assert CliRunner().invoke(main, ["--update"]).exit_code == 0
    assert json.loads(committed.read_text())["counts"] == COUNTED
    done = CliRunner().invoke(main)
    assert (done.exit_code, done.stdout, done.stderr) == (0, "2 figures are as committed\n", "")


def test_other_versions_may_have_other_nodes(committed: Path) -> None:
    document: dict[str, Any] = json.loads(committed.read_text())
    document["versions"]["torch"] = "1.0"
    committed.write_text(json.dumps(document))
    lines = list(differences(read_committed(), COUNTED))
    assert lines == ["a fp32: encoder_macs is 1,234, 1,000 committed"]
    assert "other versions" in CliRunner().invoke(main).stderr
