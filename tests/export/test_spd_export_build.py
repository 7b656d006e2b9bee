"""`spd-export --build`: TensorRT engines with the export, or the reason why there are none."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx_ir as ir
import pytest
from click.testing import CliRunner
from export_support import HEIGHT, WIDTH

import engines.cli
import engines.pipeline
import export.pipeline
from export.cli import main
from export.graphs import GraphPair

QUICK = ["--seed-checkpoint", "atto", "--size", f"{HEIGHT}x{WIDTH}", "--max-points", "512", "--with-routes"]
QUICK += ["--no-verify"]


@pytest.fixture
def traced(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The session's graphs in place of tracing."""

    def read(_model: Any, precision: str, *_: Any) -> GraphPair:
        return GraphPair(*(ir.load(exported / f"{graph}.{precision}.onnx") for graph in ("encoder", "decoder")))

    monkeypatch.setattr(export.pipeline, "build_graphs", read)


MISSING = "tensorrt is missing: pip install 'spd-depth[tensorrt]'"


def missing(backend: str) -> str:
    assert backend == "tensorrt"
    return MISSING


@pytest.mark.usefixtures("traced")
def test_auto_says_why_nothing_was_built_and_how_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spd.runtime.available.unavailable", missing)
    result = CliRunner().invoke(main, [*QUICK, "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    said = " ".join(result.stderr.split())
    assert f"No TensorRT engines: {MISSING}." in said
    assert f"spd-build {tmp_path / f'atto-{HEIGHT}x{WIDTH}'}" in said


@pytest.mark.usefixtures("traced")
def test_no_says_nothing_of_engines(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, [*QUICK, "--out", str(tmp_path), "--build", "no"])
    assert result.exit_code == 0, result.output
    assert "TensorRT" not in result.stderr


def test_yes_fails_before_the_export_where_nothing_can_be_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spd.runtime.available.unavailable", missing)
    result = CliRunner().invoke(main, [*QUICK, "--out", str(tmp_path), "--build", "yes"])
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [f"Error: --build yes: {MISSING}"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("traced")
def test_engines_are_built_in_the_low_precisions_of_the_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Path, engines.pipeline.BuildOptions]] = []

    def build(path: Path, options: engines.pipeline.BuildOptions, _phases: Any) -> Any:
        assert (path / "manifest.json").is_file(), "the bundle is published before engines are built"
        asked.append((path, options))
        return SimpleNamespace()

    monkeypatch.setattr("spd.runtime.available.unavailable", lambda _: None)
    monkeypatch.setattr(engines.pipeline, "build_engines", build)
    monkeypatch.setattr(engines.cli, "summarise", lambda _built, _console: None)
    result = CliRunner().invoke(main, [*QUICK, "--out", str(tmp_path), "--precision", "fp16", "--precision", "bf16"])
    assert result.exit_code == 0, result.output
    ((path, options),) = asked
    assert path == tmp_path / f"atto-{HEIGHT}x{WIDTH}"
    assert (options.precisions, options.verify) == (("fp16", "bf16"), False)


@pytest.mark.usefixtures("traced")
def test_rtx_builds_for_rtx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[engines.pipeline.BuildOptions] = []
    monkeypatch.setattr(engines.pipeline, "build_engines", lambda _path, options, _phases: asked.append(options))
    monkeypatch.setattr(engines.cli, "summarise", lambda _built, _console: None)
    result = CliRunner().invoke(main, [*QUICK, "--out", str(tmp_path), "--precision", "fp16", "--build", "rtx"])
    assert result.exit_code == 0, result.output
    assert [(options.flavour, options.precisions) for options in asked] == [("rtx", ("fp16",))]


def test_rtx_fails_before_the_export_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    result = CliRunner().invoke(main, [*QUICK, "--out", str(tmp_path), "--build", "rtx"])
    assert result.exit_code == 1
    assert result.stderr.splitlines() == ["Error: tensorrt_rtx is missing: pip install 'spd-depth[rtx]'"]
    assert list(tmp_path.iterdir()) == []
