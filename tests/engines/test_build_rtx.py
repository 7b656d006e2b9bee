"""`spd-build --for rtx`: with NVIDIA's compiler and no GPU, and with a stand-in where a GPU is needed."""

from __future__ import annotations

import json
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rtx_support import needs_rtx

from engines.cli import main
from engines.rtx import PORTABLE
from spd.bundle import open_bundle
from spd.bundle.plans import RtxTarget
from spd.runtime import devices

pytestmark = needs_rtx


def build(bundle: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, [str(bundle), *arguments])


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a driver, also where the tests run on one with it."""
    if devices.cuda_missing() is None:
        monkeypatch.setattr("engines.makers.current_target", lambda _: pytest.skip("a GPU is here"))


@pytest.mark.usefixtures("no_gpu")
def test_engines_are_compiled_without_a_gpu_and_the_bundle_says_so(bundle: Path) -> None:
    result = build(bundle, "--for", "rtx", "--precision", "bf16", "--precision", "fp16", "--buckets", "32,64")
    assert result.exit_code == 0, result.stderr
    assert f"for compute capability {', '.join(PORTABLE)}" in result.stderr
    assert re.search(r"Compiled, not run \(no GPU can be used: ", result.stderr)
    assert f"spd-build {bundle} --prove --for rtx --precision bf16" in result.stderr

    found = open_bundle(bundle)
    assert {file.name for file in bundle.iterdir()} == {*found.manifest.files, "manifest.json"}
    version = import_module("tensorrt_rtx").__version__
    for record in found.manifest.engines:
        assert record.target == RtxTarget(version, PORTABLE)
        assert (record.flavour, record.proven) == ("rtx", False)
        assert record.file == f"{record.graph}.{record.precision}.rtx.engine"
        assert found.file(record.file).stat().st_size > 1e6
    report = json.loads(found.file("engines.json").read_text())["rtx"]
    assert set(report) == {"fp16", "bf16"}
    for precision, entry in report.items():
        assert entry["proof"] is None
        for graph in ("encoder", "decoder"):
            record = next(r for r in found.manifest.engines if (r.graph, r.precision) == (graph, precision))
            assert entry[graph]["verdict"] == "proven", "by types"
            facts = entry[graph]["profiles"]
            assert [row["points"] for row in facts] == [
                None if profile.points is None else list(profile.points) for profile in record.profiles
            ]
            assert sum(row["kernels"] for row in facts) == entry[graph]["layers"]
            for row in facts:
                assert row["scratch_bytes"] > 1e5
                assert f"{row['kernels']}" in result.stderr
    decoder = report["fp16"]["decoder"]["profiles"]
    assert decoder[0]["moved_bytes"] < decoder[1]["moved_bytes"], "more points move more"


@pytest.mark.usefixtures("no_gpu")
def test_one_precision_is_replaced_and_the_other_stays(bundle: Path) -> None:
    for arguments in (("fp32", "--compute", "8.9"), ("fp16", "--compute", "8.6, 12.0")):
        assert build(bundle, "--for", "rtx", "--buckets", "16", "--precision", *arguments).exit_code == 0
    before = (bundle / "manifest.json").read_text()
    again = build(bundle, "--for", "rtx", "--precision", "fp16")
    assert (again.exit_code, (bundle / "manifest.json").read_text()) == (1, before)
    assert "has fp16 engines of TensorRT for RTX already; give --force to build them again" in again.stderr
    targets = {record.precision: record.target for record in open_bundle(bundle).manifest.engines}
    assert {p: t.compute_capabilities for p, t in targets.items() if isinstance(t, RtxTarget)} == {
        "fp32": ("8.9",),
        "fp16": ("8.6", "12.0"),
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--for", "rtx", "--compute", "9.0"), "an H100 or H200 needs TensorRT itself: spd-build"),
        (("--for", "rtx", "--compute", "8.9,8.7"), "does not compile for compute capability 8.7, expected 8.0, 8.6"),
        (("--compute", "8.9"), "--compute goes with --for rtx"),
        (("--for", "rtx", "--timing-cache", "none"), "--timing-cache is for TensorRT"),
        (("--for", "rtx", "--hardware-compatibility", "ampere_plus"), "--hardware-compatibility is for TensorRT"),
        (("--for", "rtx", "--prove", "--force"), "--prove builds nothing: leave out --force"),
        (("--prove", "--compute", "8.9"), "--prove builds nothing: leave out --compute"),
        (("--prove", "--buckets", "64"), "--prove builds nothing: leave out --buckets"),
        (("--prove", "-v"), "--prove builds nothing: leave out --verbose"),
        (
            (
                "--for",
                "lean",
            ),
            "'lean' is not one of",
        ),
    ],
)
def test_options_that_do_not_go_together(bundle: Path, arguments: tuple[str, ...], said: str) -> None:
    before = (bundle / "manifest.json").read_text()
    result = build(bundle, *arguments)
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())
    assert (bundle / "manifest.json").read_text() == before


def test_fp8_is_refused_for_gpus_without_it_before_anything_is_built(bundle: Path) -> None:
    document = json.loads((bundle / "manifest.json").read_text())
    document["graphs"]["fp8"] = document["graphs"]["fp16"]
    (bundle / "manifest.json").write_text(json.dumps(document))
    before = (bundle / "manifest.json").read_text()
    for compute, without in (((), "8.0, 8.6"), (("--compute", "8.6,8.9"), "8.6")):
        result = build(bundle, "--for", "rtx", "--precision", "fp8", "--no-verify", *compute)
        assert result.exit_code == 1
        assert f"fp8 needs compute capability 8.9 or later, not {without}; --compute 8.9,12.0" in result.stderr
        assert "building" not in result.stderr
    assert (bundle / "manifest.json").read_text() == before


def test_nothing_to_prove(bundle: Path) -> None:
    result = build(bundle, "--prove", "--for", "rtx")
    assert result.exit_code == 1
    assert (
        f"it has no TensorRT for RTX engines; build them: spd-build {bundle} --for rtx --precision fp16"
        in result.stderr
    )


def test_where_the_gpu_is_they_are_proven_at_once(bundle: Path, tensorrt_rtx: Any) -> None:
    result = build(bundle, "--for", "rtx", "--precision", "fp32", "--buckets", "512")
    assert result.exit_code == 0, result.stderr
    assert "--backend tensorrt-rtx" in result.stderr
    assert all(record.proven for record in open_bundle(bundle).manifest.engines)
    entry = json.loads((bundle / "engines.json").read_text())["rtx"]["fp32"]
    assert entry["proof"]["passed"] is True
    assert entry["proof"]["machine"]["compute_capability"] == "8.9"
    assert tensorrt_rtx.live_buffers == 0


def test_a_gpu_that_they_are_not_for_does_not_prove_them(bundle: Path, tensorrt_rtx: Any) -> None:
    result = build(bundle, "--for", "rtx", "--precision", "fp32", "--buckets", "512", "--compute", "12.0")
    assert result.exit_code == 0, result.stderr
    assert "Compiled, not run (NVIDIA GeForce RTX 4090 has compute capability 8.9)" in result.stderr
    assert not any(record.proven for record in open_bundle(bundle).manifest.engines)
    assert tensorrt_rtx.counts.events["enqueues"] == 0


def test_engines_in_the_wrong_precision_are_refused(bundle: Path, tensorrt_rtx: Any) -> None:
    tensorrt_rtx.faults.float32_layers = True
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    result = build(bundle, "--for", "rtx", "--buckets", "512")
    assert result.exit_code == 1
    assert "the fp16 engine of the encoder is not float16" in result.stderr
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before
