"""`spd-export` that fails on the way, or dies: what was there stays, and nothing else does."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from export_support import NAME, QUICK, contents, refused, run
from onnx import numpy_helper

import export.pipeline
import export.publish
from export.graphs import GraphPair
from spd.bundle import MANIFEST, open_bundle
from spd.errors import ExportError
from spd.staging import staging


def disk_full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def interrupt(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def refuse_operator(*_: Any, **__: Any) -> None:
    raise ExportError("spd_decoder, node b1/GridSample: TensorRT's parser has no such operator")


FAILURES: list[tuple[str, Any, str, Any, int, str]] = [
    ("disk full", export.publish.ir, "save", disk_full, 1, "Error: No space left on device"),
    ("interrupted", export.pipeline, "build_graphs", interrupt, 130, "Interrupted."),
    ("interrupted while publishing", export.pipeline, "write_manifest", interrupt, 130, "Interrupted."),
    ("operator", export.pipeline, "check_operators", refuse_operator, 1, "Error: spd_decoder, node b1/GridSample"),
]


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("force", [(), ("--force",)], ids=["new", "force"])
@pytest.mark.parametrize(
    ("module", "name", "fail", "exit_code", "last_line"), [f[1:] for f in FAILURES], ids=[f[0] for f in FAILURES]
)
def test_a_failure_leaves_everything_as_it_was(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: Any,
    name: str,
    fail: Callable[..., None],
    exit_code: int,
    last_line: str,
    force: tuple[str, ...],
) -> None:
    out = request.getfixturevalue("bundle").parent if force else tmp_path / "out"
    out.mkdir(exist_ok=True)
    before = contents(out)
    monkeypatch.setattr(module, name, fail)
    result = run(*QUICK, "--no-verify", *force, "--out", out)
    assert result.exit_code == exit_code
    assert isinstance(result.exception, SystemExit)
    *progress, last = result.stderr.splitlines()
    assert last.startswith(last_line)
    assert not [line for line in progress if "Error" in line or "Traceback" in line]
    assert contents(out) == before


@pytest.mark.usefixtures("traced")
def test_a_failure_while_replacing_keeps_the_old_bundle(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(bundle.parent)
    rename = Path.rename

    def fail_to_publish(self: Path, target: Path) -> Path:
        if self.name.endswith(".partial") and Path(target) == bundle:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_to_publish)
    refused(run(*QUICK, "--no-verify", "--force", "--out", bundle.parent), 1, "Permission denied")
    assert contents(bundle.parent) == before


@pytest.mark.usefixtures("traced")
def test_graphs_that_fail_the_parity_gate_are_not_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = export.pipeline.write_graphs

    def write_damaged(folder: Path, precision: str, graphs: GraphPair) -> Any:
        files = write(folder, precision, graphs)
        proto = onnx.load(files.decoder)
        (bias,) = (t for t in proto.graph.initializer if t.name == "head.w_r2.bias")
        bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + 1, bias.name))
        onnx.save(proto, files.decoder)
        return files

    monkeypatch.setattr(export.pipeline, "write_graphs", write_damaged)
    result = run(*QUICK, "--max-points", "40", "--out", tmp_path)
    assert result.exit_code == 1
    *progress, last = result.stderr.splitlines()
    assert last.startswith("Error: fp32 graphs do not compute what the model computes")
    assert "spd_decoder head/" in last
    assert not [line for line in progress if "Error" in line]
    assert os.listdir(tmp_path) == []


@pytest.mark.usefixtures("traced")
def test_leftovers_of_a_dead_export_are_removed_and_of_a_living_one_kept(tmp_path: Path) -> None:
    dead, foreign = tmp_path / f".{NAME}.0123abcd.partial", tmp_path / ".other.0123abcd.partial"
    for folder in (dead, foreign):
        folder.mkdir()
        (folder / "encoder.fp32.onnx").touch()
        folder.with_suffix(".lock").touch()
    with staging(tmp_path, NAME) as alive:
        assert run(*QUICK, "--no-verify", "--out", tmp_path).exit_code == 0
        assert sorted(os.listdir(tmp_path)) == sorted(
            [alive.name, alive.with_suffix(".lock").name, foreign.name, ".other.0123abcd.lock", NAME]
        )
    assert json.loads((tmp_path / NAME / MANIFEST).read_text(encoding="utf-8"))["name"] == NAME
    assert open_bundle(tmp_path).path == tmp_path / NAME, "a leftover was taken for a bundle"
