"""Exports without the slow part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
from export_support import NAME, run
from quantise_support import INT8, few_rooms, traced_graphs

import export.pipeline
from export.graphs import GraphPair
from export.parity import ParityResult
from spd.bundle.comparison import Case, Worst
from spd.bundle.gate import TOLERANCES


@pytest.fixture
def no_tracing(monkeypatch: pytest.MonkeyPatch) -> None:
    """For refusals that must come before the slow part."""

    def fail(*_: Any, **__: Any) -> GraphPair:
        raise AssertionError("tracing started")

    monkeypatch.setattr(export.pipeline, "build_graphs", fail)


@pytest.fixture
def traced(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The session's graphs in place of tracing."""

    def read(_model: Any, precision: str, *_: Any) -> GraphPair:
        return GraphPair(*(ir.load(exported / f"{graph}.{precision}.onnx") for graph in ("encoder", "decoder")))

    monkeypatch.setattr(export.pipeline, "build_graphs", read)


@pytest.fixture(scope="session")
def quantised(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The session's bundle with 8-bit graphs, made by the command; do not write to it."""
    folder = tmp_path_factory.mktemp("quantised")
    with pytest.MonkeyPatch.context() as patch:
        few_rooms(patch)
        traced_graphs(exported, patch)
        result = run(*INT8, "--precision", "int8-fp16", "--precision", "fp8", "--out", folder)
    assert result.exit_code == 0, result.output
    return folder / NAME


@pytest.fixture
def quick(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports without tracing and without judging the graphs that are not quantised."""
    few_rooms(monkeypatch)
    traced_graphs(exported, monkeypatch)

    def passes(_model: Any, files: Any, *_: Any) -> ParityResult:
        case = Case({}, 1, 64, 0.0, 0.0, Worst(0, 0, 0, 2, 2))
        return ParityResult(files.precision, TOLERANCES[files.precision], (case,), 1.0, 1.0, 0)

    monkeypatch.setattr(export.pipeline, "verify", passes)
