"""`spd-profile` as a person runs it: what it prints and writes for a real bundle, and what it refuses."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from engines.profile.blocks import BLOCKS
from engines.profile.cli import main

GIVEN = ("--peak-gflops", "100", "--bandwidth", "10", "--runs", "3", "--threads", "1")


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def profiled(
    request: pytest.FixtureRequest, exported: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """One profile: the document, what was printed, and the picture's path."""
    folder = tmp_path_factory.mktemp("profile")
    out, picture = folder / "p.json", folder / "p.png"
    done = run(exported, *GIVEN, "--precision", request.param, "--points", "37", "--out", out, "--picture", picture)
    assert done.exit_code == 0, done.stderr
    said = [line.split(" s  ")[1].split()[0] for line in done.stderr.splitlines()]
    assert list(dict.fromkeys(said)) == ["timing", "measuring"]  # a phase speaks again every five seconds
    document: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    assert document["precision"] == request.param
    return {**document, "printed": done.stdout, "picture": picture}


def test_the_time_is_in_the_blocks(profiled: dict[str, Any]) -> None:
    assert [graph["graph"] for graph in profiled["graphs"]] == ["encoder", "decoder"]
    assert (profiled["points"], profiled["runs"], profiled["threads"]) == (37, 3, 1)
    for graph in profiled["graphs"]:
        blocks = {block["block"]: block for block in graph["blocks"]}
        assert set(BLOCKS[graph["graph"]]) - {"other"} <= set(blocks)
        assert sum(block["share"] for block in blocks.values()) == pytest.approx(1)
        assert sum(block["ms"] for block in blocks.values()) == pytest.approx(graph["operators_ms"])
        other = blocks.get("other", {"share": 0.0, "operators": 0})
        assert other["share"] <= 0.03
        assert other["operators"] <= 0.02 * len(graph["operators"])
        assert all(block["ms"] > 0 and block["operators"] > 0 for name, block in blocks.items() if name != "other")
        assert sum(block["operators"] for block in blocks.values()) == len(graph["operators"])
        assert len(graph["calls_ms"]) == 3
        assert graph["call_ms"] > 0
        assert len({operator["name"] for operator in graph["operators"]}) == len(graph["operators"])


def test_floors_follow_from_the_given_rates(profiled: dict[str, Any]) -> None:
    assert profiled["machine"]["source"] == "given"
    for graph in profiled["graphs"]:
        for block in graph["blocks"]:
            floor = max(2 * block["macs"] / 100e9, block["bytes"] / 10e9) * 1e3
            assert block["floor_ms"] == pytest.approx(floor)
            if floor:
                assert block["over_floor"] == pytest.approx(block["ms"] / floor)
                assert block["flop_per_byte"] == pytest.approx(2 * block["macs"] / block["bytes"])


def test_operators_move_at_least_what_the_block_must(profiled: dict[str, Any]) -> None:
    for graph in profiled["graphs"]:
        for block in graph["blocks"]:
            assert block["bytes_run"] is not None
            # Where a block gathers, it need not read the whole map; where ONNX Runtime folds constants, it reads less.
            assert block["bytes_run"] >= 0.95 * block["bytes"], block["block"]


def test_the_tables_and_the_picture(profiled: dict[str, Any]) -> None:
    printed = profiled["printed"]
    for graph in profiled["graphs"]:
        for block in graph["blocks"]:
            row = re.search(rf"^│ {re.escape(block['block'])} .*$", printed, re.MULTILINE)
            assert row is not None
            cells = [cell.strip() for cell in row[0].strip("│").split("│")]
            assert cells[1] == str(block["operators"])
            assert float(cells[2]) == pytest.approx(block["ms"], abs=1e-3)
            assert float(cells[4]) == pytest.approx(block["macs"] / 1e6, abs=0.06)
    assert f"decoder {profiled['precision']} on onnxruntime-cpu, K = 37:" in printed
    assert "floor: 100 GFLOP/s and 10 GB/s, given" in printed
    with Image.open(profiled["picture"]) as picture:
        assert picture.format == "PNG"
        assert picture.width > picture.height


def test_rates_that_are_not_given_are_measured(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine, times = import_module("engines.profile.machine"), import_module("engines.profile.times")
    monkeypatch.setattr(machine, "SECONDS", 0.02)
    monkeypatch.setattr(machine, "SIDE", {"onnxruntime-cpu": 128})
    monkeypatch.setattr(machine, "COPIED", {"onnxruntime-cpu": 1 << 20})
    settings = times.Settings("onnxruntime-cpu", "fp16", 8, 1, 1)
    found = machine.measure(settings)
    assert 1e8 < found.flops < 1e14
    assert 1e8 < found.bandwidth < 1e13
    assert found.source == "measured with onnxruntime-cpu, matrices of 128 x 128 in fp32"
    half = machine.measure(settings, flops=5e9)
    assert half.flops == 5e9
    assert half.source.startswith("rate given, else measured")
    assert machine.measure(settings, 1.0, 2.0) == machine.Machine(1.0, 2.0, "given")


def test_tensorrt_without_a_way_to_measure_has_no_floor() -> None:
    machine, times = import_module("engines.profile.machine"), import_module("engines.profile.times")
    if import_module("spd.runtime.available").unavailable("onnxruntime-cuda") is None:
        pytest.skip("onnxruntime-cuda works here, so there is a way")
    assert machine.measure(times.Settings("tensorrt", "fp16", 8, 1)) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--points", "513"], "K = 513 is in no bucket of {}, which takes 1 to 512 points a call"),
        (
            ["--precision", "bf16"],
            "onnxruntime-cpu cannot run bf16: it has no bfloat16; of the precisions of {} it runs fp32, fp16: "
            "take one of those",
        ),
    ],
)
def test_refusals(exported: Path, arguments: list[str], message: str) -> None:
    done = run(exported, *GIVEN, *arguments)
    assert (done.exit_code, done.stderr) == (1, f"Error: {message.format(exported)}\n")
    assert done.stdout == ""


@pytest.mark.parametrize("backend", ["onnxruntime-cuda", "tensorrt"])
def test_a_backend_that_is_missing(exported: Path, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module("spd.runtime.available"), "unavailable", lambda name: f"there is no {name}")
    done = run(exported, *GIVEN, "--backend", backend)
    assert done.stderr == f"Error: {backend} cannot run here: there is no {backend}\n"
    assert done.exit_code == 1


def test_a_precision_that_is_missing(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    del manifest["graphs"]["fp16"]
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    for arguments in (GIVEN, ("--trtexec",), ("--polygraphy",)):
        done = run(bundle, *arguments, "--precision", "fp16")
        assert done.exit_code == 1
        assert done.stderr == (f"Error: {bundle} has no fp16 graphs, only fp32, bf16; export with --precision fp16\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "p.txt"], "p.txt must end in .json"),
        (["--picture", "p.jpg"], "p.jpg must end in .png"),
        (["--picture", "nowhere/p.png"], "the folder of nowhere/p.png does not exist; make it first"),
        (["--trtexec", "--polygraphy"], "--trtexec and --polygraphy print different lines; give one of them"),
        (["--points", "0"], "0 is not in the range"),
        (["--bandwidth", "0"], "0.0 is not in the range"),
    ],
)
def test_wrong_arguments(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = run(tmp_path, *arguments)
    assert done.exit_code == 2
    assert message in done.stderr


def test_what_is_no_bundle(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.exit_code == 1
    assert (
        done.stderr
        == f"Error: {tmp_path} holds no bundle (no manifest.json); make one with: spd-export --out {tmp_path}\n"
    )


def test_help_is_instant_and_loads_nothing_heavy() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from engines.profile.cli import main;"
        "assert CliRunner().invoke(main, ['--help']).exit_code == 0;"
        "print(sorted({'numpy', 'onnx', 'onnxruntime', 'rich', 'PIL', 'torch'} & set(sys.modules)))"
    )
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        times.append(time.perf_counter() - begin)
        assert done.stdout == "[]\n"
    assert min(times) < 0.6, "0.3 s on an idle machine"
