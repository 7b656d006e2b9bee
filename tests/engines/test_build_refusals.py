"""What `spd-build` refuses: one line, the right exit code, and a bundle that did not change."""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from stand_ins.machine import Machine

from engines.cli import main
from engines.inspection import PRECISION_NAMES
from spd.bundle import open_bundle
from spd.bundle.manifest import FileRecord
from spd.runtime.available import unavailable


def build(bundle: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, [str(bundle), "--timing-cache", "none", *arguments])


def content(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def refused(bundle: Path, *arguments: str, code: int = 1) -> str:
    """The one line of the refusal; the bundle must be as before."""
    before = content(bundle) if bundle.is_dir() else {}
    result = build(bundle, *arguments)
    assert result.exit_code == code, result.stderr
    assert (content(bundle) if bundle.is_dir() else {}) == before
    lines = result.stderr.splitlines()
    assert sum(line.startswith("Error: ") for line in lines) == 1
    assert lines[-1].startswith("Error: ")
    assert "Traceback" not in result.stderr
    return lines[-1]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--workspace", "4"),
        ("--workspace", "0GiB"),
        ("--workspace", "-1GiB"),
        ("--workspace", "4GG"),
        ("--workspace", "GiB"),
        ("--buckets", ""),
        ("--buckets", "64,64"),
        ("--buckets", "256,64"),
        ("--buckets", "0,64"),
        ("--buckets", "a,b"),
        ("--optimization-level", "6"),
        ("--precision", "int8"),
        ("--hardware-compatibility", "all"),
        ("--nonsense",),
    ],
)
def test_wrong_arguments(bundle: Path, arguments: tuple[str, ...]) -> None:
    refused(bundle, *arguments, code=2)


def test_a_timing_cache_is_a_folder(bundle: Path) -> None:
    line = refused(bundle, "--timing-cache", str(bundle / "manifest.json"), code=2)
    assert "manifest.json is a file, expected a folder" in line


def test_a_bundle_that_is_none(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "nothing")
    assert "holds no bundle" in refused(tmp_path)


def test_buckets_beyond_the_bundle(bundle: Path, tensorrt_10: Machine) -> None:
    assert "rise within 1 to 512, the bundle's limit of points" in refused(bundle, "--buckets", "64,1024")
    assert tensorrt_10.counts.events["builds"] == 0


def edit_manifest(bundle: Path, change: Callable[[dict[str, Any]], None]) -> None:
    document = json.loads((bundle / "manifest.json").read_text())
    change(document)
    (bundle / "manifest.json").write_text(json.dumps(document))


def test_a_precision_that_the_bundle_lacks(bundle: Path, tensorrt_10: Machine) -> None:
    edit_manifest(bundle, lambda document: document["graphs"].pop("bf16"))
    assert "has no bf16 graphs, only fp32, fp16" in refused(bundle, "--precision", "bf16")


def test_an_unverified_bundle_needs_no_verify(bundle: Path, tensorrt_10: Machine) -> None:
    edit_manifest(bundle, lambda document: document.update(verified=False))
    assert "exported with --no-verify" in refused(bundle)
    assert build(bundle, "--no-verify").exit_code == 0


def test_a_bundle_of_an_older_export_is_refused_before_the_build(bundle: Path, tensorrt_10: Machine) -> None:
    (bundle / "gate.npz").unlink()
    edit_manifest(bundle, lambda document: document["files"].pop("gate.npz"))
    assert "has no gate.npz, so there is nothing to hold its engines to; export it again" in refused(bundle)
    assert tensorrt_10.counts.events["builds"] == 0
    assert build(bundle, "--no-verify").exit_code == 0


@pytest.mark.parametrize("name", ["encoder.fp16.onnx", "decoder.fp16.onnx", "parity.json", "gate.npz"])
def test_a_changed_file(bundle: Path, tensorrt_10: Machine, name: str) -> None:
    data = bytearray((bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / name).unlink()  # as it is linked to the shared one
    (bundle / name).write_bytes(data)
    assert f"{name} is not the file that was exported" in refused(bundle)
    assert tensorrt_10.counts.events["builds"] == 0


def test_without_tensorrt(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    line = refused(bundle)
    assert "tensorrt" in line
    assert "pip install 'spd-depth[tensorrt]'" in line
    assert unavailable("tensorrt") is not None


@pytest.mark.parametrize("version", ["10.12.0.36", "8.6.1", "12.0.0.1"])
def test_an_unsupported_tensorrt(
    bundle: Path, tensorrt_10: Machine, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    assert import_module("spd.runtime.available").unavailable("tensorrt") is None
    monkeypatch.setattr(sys.modules["tensorrt"], "__version__", version)
    assert f"TensorRT {version} is not supported" in refused(bundle)
    assert version in import_module("spd.runtime.available").unavailable("tensorrt")


def test_without_a_gpu(bundle: Path, tensorrt_10: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise RuntimeError("CUDA_ERROR_NO_DEVICE: no CUDA-capable device is detected")

    monkeypatch.setattr(sys.modules["cuda.core"], "Device", none)
    assert "no GPU can be used" in refused(bundle)
    assert "no GPU can be used" in import_module("spd.runtime.available").unavailable("tensorrt")


def test_an_operator_that_the_parser_refuses_is_named_with_its_node(bundle: Path, tensorrt_any: Machine) -> None:
    tensorrt_any.faults.refused_operator = "TopK"
    line = refused(bundle, "--no-verify")
    assert "node TopK (TopK)" in line
    assert "decoder.fp16.onnx" in line
    tensorrt_any.faults.refused_operator = "LayerNormalization"
    assert "node stem/1/LayerNormalization (LayerNormalization)" in refused(bundle, "--no-verify")


@pytest.mark.parametrize("plan", [1, 2])
def test_a_build_that_gives_no_plan(bundle: Path, tensorrt_any: Machine, plan: int) -> None:
    tensorrt_any.faults.build = plan
    line = refused(bundle, "--no-verify")
    assert f" could not build a plan of {bundle / ('encoder', 'decoder')[plan - 1]}.fp16.onnx: " in line
    assert "no reason" not in line
    assert build(bundle, "--no-verify").exit_code == 0


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_silently_float32_engine(bundle: Path, tensorrt_any: Machine, precision: str) -> None:
    tensorrt_any.faults.float32_layers = True
    line = refused(bundle, "--precision", precision)
    assert re.search(rf"the {precision} engine of the encoder is not {PRECISION_NAMES[precision]}: (\d+) of \1 ", line)


def opaque(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the inspector tell of one region only."""
    region = {"Name": "{ForeignNode[stem/0/Conv...head/Exp]}", "LayerType": "Myelin", "Inputs": [], "Outputs": []}
    monkeypatch.setattr(import_module("stand_ins.trt_inspector"), "layers_of_graph", lambda _: [region])


@pytest.mark.parametrize("arguments", [("--no-verify",), ("--inspection", "require")])
def test_an_engine_that_shows_nothing(
    bundle: Path, tensorrt_any: Machine, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    opaque(monkeypatch)
    line = refused(bundle, *arguments)
    assert "nothing shows that the fp16 engine of the encoder computes in float16: " in line
    assert "{ForeignNode[stem/0/Conv...head/Exp]} (Myelin)" in line
    assert "--inspection report accepts such engines" in line


@pytest.mark.parametrize("arguments", [(), ("--inspection", "report", "--no-verify")])
def test_an_engine_that_shows_nothing_is_reported(
    bundle: Path, tensorrt_10: Machine, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    opaque(monkeypatch)
    few_cases(monkeypatch)
    result = build(bundle, *arguments)
    assert result.exit_code == 0, result.stderr
    assert result.stderr.count("Warning: nothing shows that the fp16 engine of the ") == 2
    report = json.loads((bundle / "engines.json").read_text())["tensorrt"]["fp16"]
    for graph, profiles in (("encoder", 1), ("decoder", 2)):
        found = report[graph]
        assert (found["verdict"], found["unknown"], found["share_in_precision"]) == ("unproven", profiles, 0)


def test_a_wrong_engine_is_refused_whatever_is_asked(bundle: Path, tensorrt_11: Machine) -> None:
    tensorrt_11.faults.float32_layers = True
    assert "is not float16" in refused(bundle, "--inspection", "report")


def few_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two images, then one: a second instead of seven."""
    proof = import_module("engines.proof")
    monkeypatch.setattr(proof, "proof_trials", lambda *_: (proof.Trial(1, 37), proof.Trial(2, 65)))


def test_an_engine_that_computes_nan(bundle: Path, tensorrt_any: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    few_cases(monkeypatch)
    tensorrt_any.faults.nan_output = "depth"
    line = refused(bundle)
    assert "fp16 engines do not compute what the model computes: relative depth error nan" in line
    assert tensorrt_any.live_buffers == 0


def test_an_engine_beyond_the_exports_tolerance(
    bundle: Path, tensorrt_10: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_cases(monkeypatch)
    parity = json.loads((bundle / "parity.json").read_text())
    parity["fp16"]["tolerance"] = {"max": 1e-6, "mean": 1e-7}
    (bundle / "parity.json").write_text(json.dumps(parity))
    record = vars(FileRecord.of(bundle / "parity.json"))
    edit_manifest(bundle, lambda document: document["files"].update({"parity.json": record}))
    line = refused(bundle)
    assert "(at most 1e-06)" in line
    assert " of gate.npz at B=" in line
    assert "worst point (" in line
    assert tensorrt_10.live_buffers == 0


@pytest.mark.parametrize("fault", ["deserialize", "context", "enqueue", "execution", "allocation"])
@pytest.mark.parametrize("event", [1, 3])
def test_a_failure_on_the_gpu(
    bundle: Path, tensorrt_10: Machine, monkeypatch: pytest.MonkeyPatch, fault: str, event: int
) -> None:
    few_cases(monkeypatch)
    setattr(tensorrt_10.faults, fault, event)
    refused(bundle)
    assert getattr(tensorrt_10.faults, fault) is None, "the fault was never reached"
    assert tensorrt_10.live_buffers == 0


def test_ctrl_c_while_tensorrt_builds(bundle: Path, tensorrt_any: Machine) -> None:
    before, steps = content(bundle), []

    def interrupt(phase: str, step: int) -> None:
        steps.append(phase)
        if len(steps) == 5:
            signal.raise_signal(signal.SIGINT)

    tensorrt_any.on_build_step = interrupt
    result = build(bundle)
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (130, "Interrupted.")
    assert "Traceback" not in result.stderr
    assert content(bundle) == before
    tensorrt_any.on_build_step = None
    assert build(bundle, "--no-verify").exit_code == 0


def test_ctrl_c_while_the_engines_are_proved(
    bundle: Path, tensorrt_10: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(import_module("engines.pipeline"), "prove", interrupt)
    before = content(bundle)
    assert build(bundle).exit_code == 130
    assert content(bundle) == before
    assert tensorrt_10.live_buffers == 0


def test_a_full_disk(bundle: Path, tensorrt_10: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(import_module("engines.pipeline"), "write_atomically", full)
    assert "No space left on device" in refused(bundle)
    assert tensorrt_10.live_buffers == 0


def test_an_engine_of_another_precision_is_kept_by_a_failed_build(bundle: Path, tensorrt_10: Machine) -> None:
    assert build(bundle, "--no-verify").exit_code == 0
    tensorrt_10.faults.build = 1
    refused(bundle, "--no-verify", "--force")
    found = open_bundle(bundle)
    assert [found.file(engine.file).name for engine in found.manifest.engines] == [
        "encoder.fp16.engine",
        "decoder.fp16.engine",
    ]
    assert replace(found.manifest, engines=()).engines == ()
