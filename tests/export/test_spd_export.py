"""The command `spd-export`: what it refuses and how, and that no failure leaves anything behind.

Tracing is replaced by the graphs of the session's bundle wherever a case is not about tracing.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import pytest
from click.testing import CliRunner, Result
from export_support import ATTO, HEIGHT, WIDTH, literal
from onnx import numpy_helper

import export.pipeline
import export.publish
from export.cli import main
from export.graphs import GraphPair
from spd.bundle import MANIFEST, PARITY, open_bundle
from spd.checkpoint import save_checkpoint, weights_sha256
from spd.errors import ExportError

NAME = f"atto-{HEIGHT}x{WIDTH}"
SIZE = ("--size", f"{HEIGHT}x{WIDTH}", "--max-points", "512", "--with-routes")
QUICK = ("--seed-checkpoint", "atto", *SIZE, "--precision", "fp32")


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def refused(result: Result, exit_code: int, *fragments: str) -> None:
    """The command failed as spd.cli says: one line of error, no traceback, nothing on stdout."""
    assert result.exit_code == exit_code, result.output
    assert isinstance(result.exception, SystemExit)
    assert not result.stdout
    assert "Traceback" not in result.stderr
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1
    assert result.stderr.endswith(f"{errors[0]}\n"), "the error is more than one line"
    for fragment in fragments:
        assert fragment in errors[0]


def contents(folder: Path) -> dict[str, str]:
    """The hash of every file below a folder, and every empty folder."""
    return {
        path.relative_to(folder).as_posix(): sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in folder.rglob("*")
        if path.is_file() or not any(path.iterdir())
    }


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


@dataclass(frozen=True)
class Refusal:
    id: str
    arguments: tuple[str, ...]
    exit_code: int
    fragment: str


SEED = ("--seed-checkpoint", "atto")
REFUSALS = [
    Refusal("no weights", (), 2, "give either --ckpt FILE or --seed-checkpoint NAME"),
    Refusal("two weights", ("--ckpt", "{tmp}/garbage.pt", *SEED), 2, "give either --ckpt FILE"),
    Refusal("unknown seed", ("--seed-checkpoint", "huge"), 2, "'huge' is not one of 'atto', 'tiny'"),
    Refusal("missing checkpoint", ("--ckpt", "{tmp}/none.pt"), 2, "none.pt does not exist"),
    Refusal("checkpoint is a folder", ("--ckpt", "{tmp}"), 2, "is a folder"),
    Refusal("garbage checkpoint", ("--ckpt", "{tmp}/garbage.pt"), 1, "garbage.pt"),
    Refusal("empty checkpoint", ("--ckpt", "{tmp}/empty.safetensors"), 1, "empty.safetensors"),
    Refusal("checkpoint of unknown kind", ("--ckpt", "{tmp}/file"), 1, ".safetensors"),
    Refusal("preset of a seed", (*SEED, "--preset", "atto"), 2, "--preset goes with --ckpt"),
    Refusal("height not of 32", (*SEED, "--size", "481x640"), 2, "size 481x640"),
    Refusal("too few tokens", (*SEED, "--size", "32x32"), 2, "has 1 L4 tokens"),
    Refusal("size not a size", (*SEED, "--size", "abc"), 2, "'abc' is not a size: expected HEIGHTxWIDTH"),
    Refusal("no pixels", (*SEED, "--size", "0x0"), 2, "size 0x0"),
    Refusal("negative size", (*SEED, "--size", "-480x640"), 2, "is not a size"),
    Refusal("size beyond reason", (*SEED, "--size", "480000x640"), 2, "is not a size"),
    Refusal("unknown precision", (*SEED, "--precision", "int8"), 2, "'int8' is not one of"),
    Refusal("no points", (*SEED, "--max-points", "0"), 2, "0 is not in the range"),
    Refusal("no images", (*SEED, "--max-batch", "0"), 2, "0 is not in the range"),
    Refusal("old opset", (*SEED, "--opset", "17"), 2, "17 is not in the range"),
    Refusal("name leaves the folder", (*SEED, "--name", "../x"), 1, "'../x' is not usable"),
    Refusal("name in a sub-folder", (*SEED, "--name", "a/b"), 1, "'a/b' is not usable"),
    Refusal("hidden name", (*SEED, "--name", ".x"), 1, "'.x' is not usable"),
    Refusal("name with a line break", (*SEED, "--name", "a\nb"), 1, "is not usable"),
    Refusal("empty name", (*SEED, "--name", ""), 1, "is not usable"),
    Refusal("missing policy", (*SEED, "--policy", "{tmp}/none.json"), 1, "none.json cannot be read"),
    Refusal("policy is garbage", (*SEED, "--policy", "{tmp}/garbage.pt"), 1, "garbage.pt"),
]


@pytest.mark.usefixtures("no_tracing")
@pytest.mark.parametrize("case", REFUSALS, ids=lambda case: case.id)
def test_refusals(tmp_path: Path, case: Refusal) -> None:
    (tmp_path / "garbage.pt").write_bytes(b"PK\x03\x04 not a checkpoint")
    (tmp_path / "empty.safetensors").touch()
    (tmp_path / "file").touch()
    out = tmp_path / "out"
    arguments = [argument.replace("{tmp}", str(tmp_path)) for argument in case.arguments]
    refused(run(*arguments, "--out", out), case.exit_code, case.fragment)
    assert not out.exists()


def test_out_is_required() -> None:
    refused(run("--seed-checkpoint", "atto"), 2, "Missing option '--out'")


@pytest.mark.usefixtures("no_tracing")
@pytest.mark.parametrize("out", ["file", "file/below", "/proc/spd-export"], ids=["a file", "below a file", "read-only"])
def test_out_that_cannot_hold_a_bundle_is_refused(tmp_path: Path, out: str) -> None:
    if out.startswith("/proc") and not Path("/proc").is_dir():
        pytest.skip("this system has no /proc")
    (tmp_path / "file").write_text("mine")
    before = contents(tmp_path)
    refused(run(*QUICK, "--out", tmp_path / out), 1, out)
    assert contents(tmp_path) == before


@pytest.mark.usefixtures("no_tracing")
def test_an_existing_bundle_is_refused_before_tracing(bundle: Path) -> None:
    before = contents(bundle.parent)
    refused(run(*QUICK, "--out", bundle.parent), 1, str(bundle), "exists; give --force to replace it")
    assert contents(bundle.parent) == before


@pytest.mark.usefixtures("no_tracing")
@pytest.mark.parametrize("force", [(), ("--force",)], ids=["", "force"])
@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_is_no_bundle_is_never_replaced(tmp_path: Path, kind: str, force: tuple[str, ...]) -> None:
    target = tmp_path / NAME
    if kind == "folder":
        target.mkdir()
        (target / "thesis.tex").write_text("years of work")
    else:
        target.write_text("years of work")
    before = contents(tmp_path)
    refused(run(*QUICK, *force, "--out", tmp_path), 1, str(target), "is not a bundle")
    assert contents(tmp_path) == before


# What succeeds.


@pytest.mark.usefixtures("traced")
def test_no_verify_marks_the_manifest(tmp_path: Path) -> None:
    result = run(*QUICK, "--no-verify", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert not result.stdout
    assert "Not verified" in result.stderr
    assert "Untrained weights" in result.stderr
    assert os.listdir(tmp_path) == [NAME]
    made = open_bundle(tmp_path)
    assert not made.manifest.verified
    assert not made.manifest.trained
    assert made.manifest.checkpoint is None
    assert sorted(os.listdir(made.path)) == ["decoder.fp32.onnx", "encoder.fp32.onnx", MANIFEST]
    assert made.path.stat().st_mode & 0o777 == 0o755


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_checkpoint_is_named_and_hashed_in_the_manifest(tmp_path: Path, suffix: str) -> None:
    checkpoint = tmp_path / f"best{suffix}"
    save_checkpoint(checkpoint, literal(), ATTO)
    out = tmp_path / "deep" / "out"
    result = run("--ckpt", checkpoint, *SIZE, "--precision", "fp32", "--no-verify", "--name", "best-1.0", "--out", out)
    assert result.exit_code == 0, result.output
    assert os.listdir(out) == ["best-1.0"]
    manifest = open_bundle(out / "best-1.0").manifest
    assert manifest.name == "best-1.0"
    assert manifest.checkpoint == f"best{suffix}"
    assert manifest.trained
    assert manifest.weights_sha256 == weights_sha256(literal().state_dict())
    assert (manifest.config, manifest.preset) == (ATTO, "atto")
    assert (manifest.height, manifest.width, manifest.max_points) == (HEIGHT, WIDTH, 512)


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize(
    ("trained", "size", "expected", "noted"),
    [
        ((HEIGHT, WIDTH), None, f"{HEIGHT}x{WIDTH}", False),
        ((HEIGHT, WIDTH), f"{HEIGHT}x{WIDTH}", f"{HEIGHT}x{WIDTH}", False),
        ((128, 160), f"{HEIGHT}x{WIDTH}", f"{HEIGHT}x{WIDTH}", True),
        (None, None, "480x640", False),
    ],
)
def test_the_size_is_that_of_the_training_unless_asked_for(
    tmp_path: Path, trained: tuple[int, int] | None, size: str | None, expected: str, noted: bool
) -> None:
    save_checkpoint(tmp_path / "a.pt", literal(), ATTO, size=trained)
    asked = () if size is None else ("--size", size)
    quick = ("--precision", "fp32", "--no-verify", "--build", "no", "--with-routes", "--max-points", "512")
    result = run("--ckpt", tmp_path / "a.pt", *asked, *quick, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert os.listdir(tmp_path / "out") == [f"atto-{expected}"]
    assert (f"was trained at 128x160; at {expected} everything" in result.stderr) == noted


def test_the_real_command_made_the_bundle_of_these_tests(exported: Path) -> None:
    made = open_bundle(exported)
    assert os.listdir(exported.parent) == [exported.name], "something was left beside the bundle"
    assert made.manifest.verified
    assert made.manifest.precisions == ("fp32", "fp16", "bf16")
    assert made.manifest.weights_sha256 == weights_sha256(literal().state_dict())
    on_disk = {path.name for path in exported.iterdir()} - {MANIFEST}
    assert set(made.manifest.files) == on_disk
    assert all(made.file(name).stat().st_size for name in on_disk)
    assert PARITY in on_disk
    assert made.manifest.tools["torch"]
    text = (exported / MANIFEST).read_text(encoding="utf-8")
    assert str(Path.home()) not in text
    assert str(exported.parent) not in text


@pytest.mark.usefixtures("traced")
def test_force_replaces_the_bundle(bundle: Path) -> None:
    (bundle / "old.engine").touch()
    result = run(*QUICK, "--no-verify", "--force", "--out", bundle.parent)
    assert result.exit_code == 0, result.output
    assert os.listdir(bundle.parent) == [bundle.name]
    assert not (bundle / "old.engine").exists()
    assert open_bundle(bundle).manifest.precisions == ("fp32",)


# What fails on the way.


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
    with subprocess.Popen([sys.executable, "-c", "pass"]) as process:
        process.wait()
    dead = tmp_path / f".{NAME}.{process.pid}.abc.partial"
    alive = tmp_path / f".{NAME}.{os.getppid()}.abc.partial"
    foreign = tmp_path / f".other.{process.pid}.abc.partial"
    for folder in (dead, alive, foreign):
        folder.mkdir()
        (folder / "encoder.fp32.onnx").touch()
    assert run(*QUICK, "--no-verify", "--out", tmp_path).exit_code == 0
    assert sorted(os.listdir(tmp_path)) == sorted([alive.name, foreign.name, NAME])
    assert json.loads((tmp_path / NAME / MANIFEST).read_text(encoding="utf-8"))["name"] == NAME
    assert open_bundle(tmp_path).path == tmp_path / NAME, "a leftover was taken for a bundle"


def test_help_is_quick_and_shows_examples() -> None:
    code = (
        "import sys\nfrom export.cli import main\n"
        "try:\n    main(['--help'])\nfinally:\n"
        "    assert not {'torch', 'timm', 'onnx', 'rich.console', 'numpy'} & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "spd-export --ckpt model.pt --out engines/" in result.stdout
    for option in ("--size", "--precision", "--no-verify", "--force", "--opset", "--with-routes"):
        assert option in result.stdout
