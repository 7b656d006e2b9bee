"""Command lines for NVIDIA's tools: each word of trtexec's in both versions, and Polygraphy's run for real."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rtx_support import needs_rtx

from engines.profile.cli import COMPUTE, main
from engines.profile.lines import Case, cases, polygraphy, shell, trtexec
from engines.profiles import graph_profiles
from spd.bundle import MANIFEST, Bundle, FileRecord, open_bundle
from spd.bundle.plans import PlanRecord, Target

ROOT = Path(__file__).parents[3]

OFF_BY_DEFAULT_IN_10 = {
    "--stronglyTyped",
    "--useCudaGraph",
    "--noDataTransfers",
    "--useSpinWait",
    "--separateProfileRun",
}
"""Version 11 does all five by itself and calls the words deprecated."""

GONE_IN_11 = {"--fp16", "--bf16", "--int8", "--fp8", "--int4", "--best", "--calib", "--streams"}

TIMING = {
    "--warmUp": "500",
    "--duration": "3",
    "--iterations": "100",
    "--percentile": "50,90,99",
}


def words(line: list[str]) -> dict[str, str]:
    """A trtexec line as options and values; no option twice."""
    assert line[0] == "trtexec"
    pairs = [word.partition("=") for word in line[1:]]
    assert len({name for name, _, _ in pairs}) == len(pairs)
    return {name: value for name, _, value in pairs}


def shapes(spec: str) -> dict[str, tuple[int, ...]]:
    """`a:1x2,b:3x4` read back, as trtexec splits it."""
    return {
        name: tuple(map(int, sizes.split("x"))) for name, _, sizes in (item.partition(":") for item in spec.split(","))
    }


@pytest.fixture(scope="module")
def opened(exported: Path) -> Bundle:
    return open_bundle(exported)


def test_a_case_for_the_encoder_and_for_every_bucket(opened: Bundle) -> None:
    found = cases(opened, "fp16")
    assert [(case.graph, case.points) for case in found] == [
        ("encoder", 0), ("decoder", 64), ("decoder", 256),
    ]  # fmt: skip
    assert [case.points for case in cases(opened, "fp16", 65)] == [0, 256]


@pytest.mark.parametrize("version", [10, 11])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_trtexec_builds_and_times_each_bucket(opened: Bundle, version: int, precision: str) -> None:
    for case in cases(opened, precision):
        found = words(trtexec(opened, precision, case, version))
        assert found.pop("--onnx") == str(opened.path / f"{case.graph}.{precision}.onnx")
        told = {name for name in found if name in OFF_BY_DEFAULT_IN_10}
        assert told == (OFF_BY_DEFAULT_IN_10 if version == 10 else set())
        assert all(found.pop(name) == "" for name in told)
        assert not set(found) & GONE_IN_11
        assert {name: found.pop(name) for name in TIMING} == TIMING
        assert found.pop("--noTF32") == "", "as spd-build"
        assert found.pop("--profilingVerbosity") == "detailed"
        assert found.pop("--dumpProfile") == ""
        for export in ("Profile", "Times", "LayerInfo"):
            assert found.pop(f"--export{export}").startswith(f"{case.label}.{precision}.")
        low, best, high = (shapes(found.pop(f"--{name}Shapes")) for name in ("min", "opt", "max"))
        assert shapes(found.pop("--shapes")) == best
        assert not found, "nothing else"
        tensors = opened.manifest.contract
        inputs = tensors.encoder_inputs if case.graph == "encoder" else tensors.decoder_inputs
        assert list(low) == list(best) == list(high) == [spec.name for spec in inputs]
        for spec in inputs:
            assert best[spec.name] == spec.resolved(1, case.points)
        if case.graph == "encoder":
            assert (low["image"], best["image"], high["image"]) == (
                (1, 160, 192, 3),
                (1, 160, 192, 3),
                (1, 160, 192, 3),
            )
        else:
            assert low["points"] == high["points"] == (1, case.points, 2)
            assert low["l1_map"] == high["l1_map"] == (1, 42 * 50, 32)


@pytest.fixture
def with_engines(bundle: Path) -> Bundle:
    """A bundle whose manifest lists fp16 engines of TensorRT 11, with buckets of their own."""
    opened = open_bundle(bundle)
    target = Target("11.4.0.106", "13.0", "13.0", "NVIDIA H200", "9.0")
    profiles = {
        "encoder": graph_profiles("encoder", opened.manifest, max_batch=8),
        "decoder": graph_profiles("decoder", opened.manifest, (100, 512)),
    }
    records, files = [], dict(opened.manifest.files)
    for graph, of_graph in profiles.items():
        plan = bundle / f"{graph}.fp16.engine"
        plan.write_bytes(b"plan")
        files[plan.name] = FileRecord.of(plan)
        records.append(PlanRecord(graph, "fp16", plan.name, target, "none", of_graph, {}))
    manifest = dataclasses.replace(opened.manifest, engines=tuple(records), files=files)
    (bundle / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return open_bundle(bundle)


def test_trtexec_loads_the_engines_of_its_version(with_engines: Bundle) -> None:
    found = cases(with_engines, "fp16")
    assert [case.points for case in found] == [0, 100, 512]
    last = words(trtexec(with_engines, "fp16", found[-1], 11))
    assert last["--loadEngine"] == str(with_engines.path / "decoder.fp16.engine")
    assert last["--useProfile"] == "1"
    assert shapes(last["--shapes"])["points"] == (1, 512, 2)
    assert not {"--onnx", "--minShapes", "--noTF32", "--profilingVerbosity"} & set(last)
    ten = words(trtexec(with_engines, "fp16", found[-1], 10))
    assert "--onnx" in ten, "an engine of 11 is of no use to 10"
    assert "--loadEngine" not in ten


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


FAKE = """#!{python}
import sys
print("&&&& RUNNING TensorRT.trtexec [TensorRT v{version}] [b1] # trtexec " + " ".join(sys.argv[1:]))
if "--help" not in sys.argv:
    open({log!r}, "a").write(" ".join(sys.argv[1:]) + "\\n")
    sys.exit({code})
"""


def fake_trtexec(folder: Path, monkeypatch: pytest.MonkeyPatch, version: str, code: int = 0) -> Path:
    """Put a trtexec on PATH that says a version and logs its arguments."""
    log, script = folder / "log", folder / "trtexec"
    script.write_text(FAKE.format(python=sys.executable, version=version, log=str(log), code=code))
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return log


@pytest.mark.parametrize(("version", "major"), [("101600", 10), ("110400", 11)])
def test_trtexec_is_run_in_its_own_version(
    opened: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, major: int
) -> None:
    log = fake_trtexec(tmp_path, monkeypatch, version)
    done = run(str(opened.path), "--precision", "fp16", "--points", "64", "--trtexec")
    assert done.exit_code == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("trtexec ")]
    assert [line.startswith("# TensorRT 1") for line in done.stdout.splitlines()].count(True) == 2
    expected = [trtexec(opened, "fp16", case, major) for case in cases(opened, "fp16", 64)]
    assert [shlex.split(line) for line in lines[2 * (major - 10) :][:2]] == expected
    assert [line.split(" ") for line in log.read_text().splitlines()] == [line[1:] for line in expected]


@pytest.mark.parametrize(
    ("version", "code", "message"),
    [
        ("110400", 3, r"Error: \S*trtexec ended with exit code 3; its last lines say why"),
        ("8601", 0, r"Error: \S*trtexec is of TensorRT 8601, expected TensorRT 10 or 11; run one of the printed lines"),
    ],
)
def test_trtexec_that_fails_or_is_old(
    opened: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, code: int, message: str
) -> None:
    fake_trtexec(tmp_path, monkeypatch, version, code)
    done = run(str(opened.path), "--trtexec")
    assert done.exit_code == 1
    assert re.fullmatch(f"{message}.*\n", done.stderr), done.stderr
    assert "# TensorRT 11" in done.stdout


def test_without_trtexec_the_lines_are_printed(opened: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = run(str(opened.path), "--trtexec")
    assert done.exit_code == 0
    assert done.stderr.startswith("trtexec is not on PATH: ")
    assert len(done.stdout.splitlines()) == 2 * (1 + 1 + 2), "a heading, the encoder and two buckets for each version"


def shell_run(line: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run a line as a person would, by default in the checkout, with this Python's commands on PATH."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path}
    return subprocess.run(
        line, shell=True, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300
    )


def test_polygraphy_runs_as_printed(opened: Bundle) -> None:
    done = run(str(opened.path), "--polygraphy", "--points", "64")
    assert done.exit_code == 0, done.stderr
    heading, encoder, decoder, *_ = done.stdout.splitlines()
    assert heading == "# ONNX Runtime alone"
    ran = shell_run(f"{encoder} && {decoder}")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "image [dtype=uint8, shape=(1, 160, 192, 3)]" in ran.stdout
    assert "points [dtype=float32, shape=(1, 64, 2)]" in ran.stdout
    assert "{depth [dtype=float32, shape=(1, 64)]}" in ran.stdout
    assert "PASSED | Output: depth is valid" in ran.stdout
    assert ran.stdout.count("PASSED | Runtime") == 2


RTX = "# TensorRT for RTX, compiled without a GPU; Polygraphy leaves TF32 on"


@needs_rtx
def test_polygraphy_compiles_for_rtx_as_printed(opened: Bundle, tmp_path: Path) -> None:
    done = run(str(opened.path), "--polygraphy", "--precision", "bf16", "--points", "64")
    assert done.exit_code == 0, done.stderr
    assert re.fullmatch(r"No lines that compare bf16.*take --precision fp32 or fp16.*\n", done.stderr)
    heading, *lines = done.stdout.splitlines()
    assert (heading, len(lines)) == (RTX, 4)
    ran = shell_run(" && ".join(lines), tmp_path)
    said = ran.stdout + ran.stderr
    assert ran.returncode == 0, said
    assert said.count("Graph is fully supported by TensorRT") == 2
    assert said.count("target compute capabilities: [(8, 9)]") >= 2
    assert "image [min=[1, 160, 192, 3], opt=[1, 160, 192, 3], max=[1, 160, 192, 3]]" in said
    assert "points [min=[1, 64, 2], opt=[1, 64, 2], max=[1, 64, 2]]" in said
    assert re.search(r"Flags +\| \[TF32", said), "the heading says so"
    assert {path.name for path in tmp_path.iterdir()} == {"encoder.bf16.plan", "decoder.bf16.plan"}
    assert all(path.stat().st_size > 1e6 for path in tmp_path.iterdir())


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_lines_for_rtx_have_all_buckets(opened: Bundle, precision: str) -> None:
    done = run(str(opened.path), "--polygraphy", "--precision", precision)
    assert done.exit_code == 0, done.stderr
    printed = done.stdout.splitlines()
    assert [line for line in printed if line.startswith("# ")][-1] == RTX
    lines = [shlex.split(line) for line in printed[printed.index(RTX) + 1 :]]
    assert all(line[:2] == ["POLYGRAPHY_USE_TENSORRT_RTX=1", "polygraphy"] for line in lines)
    for graph, (capability, convert) in zip(("encoder", "decoder"), (lines[:2], lines[2:]), strict=True):
        model = str(opened.path / f"{graph}.{precision}.onnx")
        assert capability[2:] == ["inspect", "capability", model]
        assert convert[2:6] == ["convert", model, "--convert-to", "trt"]
        assert convert[6:10] == ["-o", f"{graph}.{precision}.plan", "--compute-capabilities", COMPUTE]
        found = [case for case in cases(opened, precision) if case.graph == graph]
        for name in ("min", "opt", "max"):
            assert convert.count(f"--trt-{name}-shapes") == len(found)
        last = [word for word in convert if word.startswith("points:")][-1:]
        assert last == (["points:[1,256,2]"] if graph == "decoder" else [])


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_polygraphy_understands_the_lines_for_a_gpu(opened: Bundle, precision: str) -> None:
    case = cases(opened, precision, 200)[-1]
    script = shell_run(f"{shell(polygraphy(opened, precision, case, tensorrt=True))} --gen -")
    assert script.returncode == 0, script.stderr
    text = script.stdout
    assert f"NetworkFromOnnxPath('{opened.path / f'decoder.{precision}.onnx'}', strongly_typed=True" in text
    assert ".add('points', min=[1, 256, 2], opt=[1, 256, 2], max=[1, 256, 2])" in text
    assert ".add('l1_map', min=[1, 2100, 32], opt=[1, 2100, 32], max=[1, 2100, 32])" in text
    assert text.index("TrtRunner(deserialize") < text.index("OnnxrtRunner(build"), "errors are relative to the second"
    rtol = {"fp32": "0.0001", "fp16": "0.002"}[precision]
    assert f"SimpleCompareFunc(rtol={{'': {rtol}}}, atol={{'': 0}}, check_error_stat={{'': 'mean'}})" in text
    assert "name='load_data'" in text


def test_routes_are_compared_with_nothing(opened: Bundle) -> None:
    case = cases(opened, "fp32", 1)[-1]
    plain = dataclasses.replace(opened, manifest=dataclasses.replace(opened.manifest, with_routes=False))
    assert opened.manifest.with_routes
    assert "--trt-outputs depth" in shell(polygraphy(opened, "fp32", case, tensorrt=True))
    assert "outputs" not in shell(polygraphy(plain, "fp32", case, tensorrt=True))


def test_the_encoder_is_compared_absolutely(opened: Bundle) -> None:
    encoder = Case("encoder", 0, graph_profiles("encoder", opened.manifest)[0], 0)
    line = polygraphy(opened, "fp16", encoder, tensorrt=True)
    assert line[-4:] == ["--atol", "0.002", "--rtol", "0"], "zeros have no relative error"
    assert line[0] == "polygraphy", "no K"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--trtexec", "--points", "257"], "K = 257 is in no bucket of {}, which end at 64, 256; take 1 to 256"),
        (
            ["--polygraphy", "--points", "257"],
            "K = 257 is in no bucket of {}, which end at 64, 256; take 1 to 256",
        ),
    ],
)
def test_refusals(opened: Bundle, arguments: list[str], message: str) -> None:
    done = run(str(opened.path), *arguments)
    assert done.exit_code == 1
    assert done.stderr.startswith(f"Error: {message.format(opened.path)}")
    assert done.stderr.count("\n") == 1
