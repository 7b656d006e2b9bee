"""The command `spd-export`: what it refuses and how, and that no failure leaves anything behind.

Tracing is replaced by the graphs of the session's bundle wherever a case is not about tracing.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from export_support import ATTO, HEIGHT, NAME, QUICK, SIZE, WIDTH, contents, literal, refused, run

from spd.bundle import GATE, MANIFEST, PARITY, open_bundle
from spd.checkpoint import save_checkpoint, weights_sha256


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
    Refusal("unknown seed", ("--seed-checkpoint", "huge"), 2, "'huge' is not one of 'atto', 'femto', "),
    Refusal("missing checkpoint", ("--ckpt", "{tmp}/none.pt"), 2, "none.pt does not exist"),
    Refusal("checkpoint is a folder", ("--ckpt", "{tmp}"), 2, "is a folder"),
    Refusal("garbage checkpoint", ("--ckpt", "{tmp}/garbage.pt"), 1, "garbage.pt"),
    Refusal("empty checkpoint", ("--ckpt", "{tmp}/empty.safetensors"), 1, "empty.safetensors"),
    Refusal("checkpoint of unknown kind", ("--ckpt", "{tmp}/file"), 2, ".safetensors"),
    Refusal("preset of a seed", (*SEED, "--preset", "atto"), 2, "--preset goes with --ckpt"),
    Refusal("height not of 32", (*SEED, "--size", "481x640"), 2, "size 481x640"),
    Refusal("too few tokens", (*SEED, "--size", "32x32"), 2, "has 1 L4 tokens"),
    Refusal("size not a size", (*SEED, "--size", "abc"), 2, "'abc' is not a size: expected HEIGHTxWIDTH"),
    Refusal("no pixels", (*SEED, "--size", "0x0"), 2, "size 0x0"),
    Refusal("negative size", (*SEED, "--size", "-480x640"), 2, "is not a size"),
    Refusal("size beyond reason", (*SEED, "--size", "480000x640"), 2, "is not a size"),
    Refusal("unknown precision", (*SEED, "--precision", "int4"), 2, "'int4' is not one of"),
    Refusal("no points", (*SEED, "--max-points", "0"), 2, "0 is not in the range"),
    Refusal("no images", (*SEED, "--max-batch", "0"), 2, "0 is not in the range"),
    Refusal("old opset", (*SEED, "--opset", "17"), 2, "17 is not in the range"),
    Refusal("name leaves the folder", (*SEED, "--name", "../x"), 1, "'../x' is not usable"),
    Refusal("name in a sub-folder", (*SEED, "--name", "a/b"), 1, "'a/b' is not usable"),
    Refusal("hidden name", (*SEED, "--name", ".x"), 1, "'.x' is not usable"),
    Refusal("name with a line break", (*SEED, "--name", "a\nb"), 1, "is not usable"),
    Refusal("empty name", (*SEED, "--name", ""), 1, "is not usable"),
    Refusal(
        "photos without 8 bits",
        (*SEED, "--images", "{tmp}"),
        2,
        "--images goes with --precision int8 or int8-fp16 or fp8",
    ),
    Refusal("no folder of photos", (*SEED, "--precision", "int8", "--images", "{tmp}/none"), 2, "none' does not exist"),
    Refusal("photos are a file", (*SEED, "--precision", "int8", "--images", "{tmp}/file"), 2, "is a file"),
    Refusal("no photos", (*SEED, "--precision", "int8", "--images", "{tmp}/empty"), 1, "empty holds no images"),
    Refusal(
        "photos that are none",
        (*SEED, "--precision", "int8", "--images", "{tmp}/bad"),
        1,
        "none of 2 images can be read",
    ),
    Refusal("missing policy", (*SEED, "--policy", "{tmp}/none.json"), 1, "none.json cannot be read"),
    Refusal("policy is garbage", (*SEED, "--policy", "{tmp}/garbage.pt"), 1, "garbage.pt"),
]


@pytest.mark.usefixtures("no_tracing")
@pytest.mark.parametrize("case", REFUSALS, ids=lambda case: case.id)
def test_refusals(tmp_path: Path, case: Refusal) -> None:
    (tmp_path / "garbage.pt").write_bytes(b"PK\x03\x04 not a checkpoint")
    (tmp_path / "empty.safetensors").touch()
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    for name in ("a.jpg", "b.png"):
        (tmp_path / "bad" / name).write_bytes(b"no image")
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
    assert {GATE, PARITY} <= on_disk
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
