"""The recorded layers are what the installed compiler makes of the graphs that the export writes today."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rtx_support import needs_rtx

from engines.inspection import inspect_layers, island_paths
from engines.inspector import read_layers
from engines.layers import Layer
from spd.bundle import GRAPHS, open_bundle
from spd.bundle.contract import FLOATING
from stand_ins.trt_inspector import RECORDED, recorded_layers
from tools.record_rtx_layers import inspector_form, main, record


def read(layers: list[dict[str, Any]]) -> tuple[Layer, ...]:
    return read_layers(json.dumps({"Layers": layers}), "recorded")


def comparable(layers: list[dict[str, Any]]) -> Counter[tuple[Any, ...]]:
    """Layers without the numbers that TensorRT puts into names."""
    return Counter((x.type, x.kind, x.dtypes, frozenset(x.nodes), x.only_moves) for x in read(layers))


@needs_rtx
@pytest.mark.parametrize("precision", FLOATING)
@pytest.mark.parametrize("graph", GRAPHS)
def test_the_recording_is_what_the_compiler_says(exported: Path, graph: str, precision: str) -> None:
    now, then = (
        comparable(layers)
        for layers in (record(open_bundle(exported), graph, precision), recorded_layers()[graph][precision])
    )
    assert now == then, f"if that is meant: python -m tools.record_rtx_layers {exported} {RECORDED}"


@pytest.mark.parametrize("precision", FLOATING)
@pytest.mark.parametrize("graph", GRAPHS)
def test_recorded_layers_are_proven_and_only_in_their_precision(exported: Path, graph: str, precision: str) -> None:
    layers = read(recorded_layers()[graph][precision])
    islands = island_paths(graph, open_bundle(exported).manifest.config)
    for asked in FLOATING:
        inspection = inspect_layers(layers, asked, islands)
        assert inspection.verdict == ("proven" if asked == precision else "wrong")
        assert inspection.unknown == ()


@needs_rtx
def test_the_form_is_read_back_whole(exported: Path) -> None:
    from engines.progress import BuildState  # only where the compiler is
    from engines.rtx import compile_graph

    bundle = open_bundle(exported)
    inputs = bundle.manifest.contract.encoder_inputs
    kernels = compile_graph(bundle.graph("encoder", "fp16"), inputs, BuildState()).kernels
    again = read([inspector_form(kernel) for kernel in kernels])
    assert [vars(layer) for layer in again] == [vars(kernel) for kernel in kernels]


def test_the_file_is_written_in_one_piece(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "tools.record_rtx_layers.record", lambda _, graph, precision: [{"Name": f"{graph} {precision}"}]
    )
    out = tmp_path / "layers.json.gz"
    assert CliRunner().invoke(main, [str(exported), str(out)]).exit_code == 0
    first = out.read_bytes()
    assert CliRunner().invoke(main, [str(exported), str(out)]).exit_code == 0
    assert out.read_bytes() == first, "the same layers are the same file"
    monkeypatch.setattr("stand_ins.trt_inspector.RECORDED", out)
    recorded_layers.cache_clear()
    try:
        assert recorded_layers()["decoder"]["bf16"] == [{"Name": "decoder bf16"}]
    finally:
        recorded_layers.cache_clear()
