"""Exports without the slow part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest

import export.pipeline
from export.graphs import GraphPair


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
