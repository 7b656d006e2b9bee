"""`spd-build` from end to end against the stand-ins of TensorRT and CUDA: what it writes and what it shows."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from stand_ins.machine import Machine

from engines.builder import make_log
from engines.cli import main
from spd.bundle import open_bundle


def build(bundle: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, [str(bundle), "--timing-cache", "none", *arguments])


def built(bundle: Path, *arguments: str) -> str:
    """Build and return what a person sees."""
    result = build(bundle, *arguments)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == ""
    return result.stderr


def check_whole(bundle: Path) -> None:
    """Every file is in the manifest and the one that it names."""
    found = open_bundle(bundle)
    assert {file.name for file in bundle.iterdir()} == {*found.manifest.files, "manifest.json"}
    for name in found.manifest.files:
        found.file(name)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_verified_engine_in_each_version(bundle: Path, tensorrt_any: Machine, precision: str) -> None:
    seen = built(bundle, "--precision", precision)
    assert f"TensorRT {tensorrt_any.version} on NVIDIA H200, compute capability 9.0" in seen
    assert f"encoder {precision}" in seen
    check_whole(bundle)
    encoder, decoder = open_bundle(bundle).manifest.engines
    assert [engine.file for engine in (encoder, decoder)] == [f"{g}.{precision}.engine" for g in ("encoder", "decoder")]
    for engine in (encoder, decoder):
        assert engine.precision == precision
        assert vars(engine.target) == {
            "tensorrt": tensorrt_any.version,
            "cuda": "13.0",
            "driver": "13.0",
            "gpu": "NVIDIA H200",
            "compute_capability": "9.0",
        }
        assert engine.hardware_compatibility == "none"
        assert engine.proven
    assert [profile.batch for profile in encoder.profiles] == [(1, 1, 1)]
    assert [profile.points for profile in decoder.profiles] == [(64, 64, 64), (256, 256, 256)]
    assert tensorrt_any.live_buffers == 0


def test_a_bfloat16_engine(bundle: Path, tensorrt_11: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    # The stand-in computes bfloat16 node by node in torch, which takes a minute for all cases.
    proof = import_module("engines.proof")
    monkeypatch.setattr(proof, "proof_trials", lambda *_: (proof.Trial(1, 37), proof.Trial(2, 65)))
    built(bundle, "--precision", "bf16", "--buckets", "64")
    report = json.loads((bundle / "engines.json").read_text())["tensorrt"]["bf16"]
    assert report["proof"]["passed"] is True
    assert report["encoder"]["share_in_precision"] == 1
    assert tensorrt_11.live_buffers == 0


def test_the_report(bundle: Path, tensorrt_11: Machine) -> None:
    built(bundle)
    report = json.loads((bundle / "engines.json").read_text())["tensorrt"]
    assert list(report) == ["fp16"], "fp16 is the default"
    fp16 = report["fp16"]
    parity = json.loads((bundle / "parity.json").read_text())["fp16"]
    assert fp16["proof"]["tolerance"] == parity["tolerance"]
    assert 0 < fp16["proof"]["max_error"] <= parity["tolerance"]["max"]
    ran = {(case["batch"], case["points"]) for case in fp16["proof"]["cases"]}
    assert ran >= {(case["batch"], case["points"]) for case in parity["cases"]}
    assert ran >= {(1, k) for k in (1, 63, 64, 65, 255, 256)}, "every bucket, full and filled up"
    assert not any(case["together"] for case in fp16["proof"]["cases"])
    # The other product that design 5 leaves in float32, head/w_r2, is fused with a layer that reads float16.
    assert fp16["decoder"]["float32_islands"] == ["b3b/layers/1/MatMul"]
    assert fp16["decoder"]["verdict"] == fp16["encoder"]["verdict"] == "proven"
    assert fp16["encoder"]["float32_islands"] == []
    convolutions = fp16["encoder"]["time_relevant"]["convolution"]
    # atto: stem, 12 depthwise, 3 downsamplings.
    assert convolutions == {"layers": 16, "in_precision": 16}
    assert tensorrt_11.counts.events["builds"] == 2


def test_engines_are_replaced_only_with_force(bundle: Path, tensorrt_10: Machine) -> None:
    built(bundle, "--no-verify")
    before = (bundle / "manifest.json").read_text()
    refused = build(bundle, "--no-verify", "--precision", "fp16")
    assert refused.exit_code == 1
    assert "has fp16 engines of TensorRT already; give --force" in refused.stderr
    assert (bundle / "manifest.json").read_text() == before
    built(bundle, "--no-verify", "--precision", "fp32", "--buckets", "512")
    built(bundle, "--no-verify", "--precision", "fp16", "--buckets", "8,100", "--force")
    check_whole(bundle)
    engines = open_bundle(bundle).manifest.engines
    points = {e.precision: [p.points for p in e.profiles] for e in engines if e.graph == "decoder"}
    assert points == {"fp32": [(512, 512, 512)], "fp16": [(8, 8, 8), (100, 100, 100)]}
    assert set(json.loads((bundle / "engines.json").read_text())["tensorrt"]) == {"fp32", "fp16"}


def test_without_verification_the_manifest_says_so(bundle: Path, tensorrt_10: Machine) -> None:
    seen = built(bundle, "--no-verify")
    assert "Compiled, not run (--no-verify)" in seen
    assert f"spd-build {bundle} --prove --precision fp16" in seen
    assert not any(engine.proven for engine in open_bundle(bundle).manifest.engines)
    assert json.loads((bundle / "engines.json").read_text())["tensorrt"]["fp16"]["proof"] is None
    assert tensorrt_10.counts.events["enqueues"] == 0


def configured(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The IBuilderConfig of every build."""
    trt = sys.modules["tensorrt"]
    real, seen = trt.Builder.build_serialized_network, []

    def spy(self: Any, network: Any, config: Any) -> Any:
        seen.append(config)
        return real(self, network, config)

    monkeypatch.setattr(trt.Builder, "build_serialized_network", spy)
    return seen


def test_options_reach_tensorrt(bundle: Path, tensorrt_any: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    configs = configured(monkeypatch)
    arguments = ["--workspace", "2GiB", "--optimization-level", "5", "--hardware-compatibility", "ampere_plus"]
    built(bundle, "--no-verify", "--precision", "fp32", *arguments)
    built(bundle, "--no-verify", "--precision", "fp16")
    trt: Any = sys.modules["tensorrt"]
    assert len(configs) == 4
    for config in configs[:2]:
        assert config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == 2 << 30
        assert config.builder_optimization_level == 5
        assert config.hardware_compatibility_level == trt.HardwareCompatibilityLevel.AMPERE_PLUS
    for config in configs[2:]:
        assert config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) != 2 << 30
        assert config.builder_optimization_level == 3
        assert config.hardware_compatibility_level == trt.HardwareCompatibilityLevel.NONE
    for config in configs:
        assert not config.get_flag(trt.BuilderFlag.TF32), "it is on by default and must be cleared"
        assert config.profiling_verbosity == trt.ProfilingVerbosity.DETAILED
        assert config.max_aux_streams == 0, "scratch memory is for one stream"
    engine = open_bundle(bundle).manifest.engines[0]
    assert engine.hardware_compatibility == "ampere_plus"
    assert engine.options == {
        "strongly_typed": True,
        "workspace": 2 << 30,
        "optimization_level": 5,
    }


def test_timings_are_kept_between_builds(bundle: Path, use_tensorrt: Callable[[str], Machine], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    arguments = [str(bundle), "--no-verify", "--force", "--timing-cache", str(cache)]

    def hits(version: str) -> tuple[int, str]:
        machine = use_tensorrt(version)
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, result.stderr
        return machine.counts.events["timing_cache_hits"], result.stderr

    first, _ = hits("10.16.1.11")
    second, seen = hits("10.16.1.11")
    assert first < second
    assert "discarded" not in seen
    other, seen = hits("11.4.0.106")
    assert other == first
    assert "discarded" not in seen, "it has a file of its own"
    assert hits("10.16.1.11")[0] == second
    (path,) = cache.glob("*_11.4.0.106_*.cache")
    path.write_bytes(path.read_bytes()[:-5])
    damaged, seen = hits("11.4.0.106")
    assert damaged == first
    assert "damaged" in seen
    assert hits("11.4.0.106")[0] == second
    assert len(list(cache.glob("*.cache"))) == 2


def test_the_timing_cache_is_on_by_default(
    bundle: Path, tensorrt_10: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    assert CliRunner().invoke(main, [str(bundle), "--no-verify"]).exit_code == 0
    (path,) = (tmp_path / "home" / "spd-depth").glob("*.cache")
    assert path.name == "timing_10.16.1.11_NVIDIA_H200_9.0.cache"
    assert tensorrt_10.counts.events["builds"] == 2


def test_a_long_build_says_where_it_is(bundle: Path, tensorrt_10: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module("spd.commands.progress"), "LINE_SECONDS", 0.1)
    tensorrt_10.on_build_step = lambda phase, step: time.sleep(0.01)
    lines = [line for line in built(bundle, "--no-verify").splitlines() if "building encoder fp16: " in line]
    assert lines, "nine minutes of silence"
    assert any("/" in line and "," in line for line in lines), "the phase and how far it is"


def test_what_tensorrt_says_is_shown_on_request(tensorrt_any: Machine) -> None:
    trt: Any = sys.modules["tensorrt"]
    shown: list[str] = []
    for log in (make_log(trt, shown.append), make_log(trt)):
        log.log(trt.ILogger.VERBOSE, "chatter")
        log.log(trt.ILogger.INFO, "building")
        log.log(trt.ILogger.WARNING, "hm")
        log.log(trt.ILogger.ERROR, "broken")
        assert log.errors == ["broken"]
    assert shown == ["building", "hm", "broken"]
