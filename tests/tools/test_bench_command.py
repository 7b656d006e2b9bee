"""The command itself, on the exported bundle, and what it refuses."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from tools.bench.__main__ import main
from tools.bench.rows import ROWS

ROOT = Path(__file__).parents[2]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tools.bench", *arguments]


def test_it_measures_a_bundle(exported: Path, tmp_path: Path) -> None:
    found, picture = tmp_path / "bench.json", tmp_path / "bench.png"
    arguments = ["--bundle", str(exported), "--rows", "spd/*", "--quick", "--rounds", "2", "--threads", "1"]
    outputs = ["--json", str(found), "--plot", str(picture), "--cache", str(tmp_path / "cache")]
    done = subprocess.run(command(*arguments, *outputs), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    document = json.loads(found.read_text())
    measured = {f"{row['name']}/{row['backend']}" for row in document["rows"]}
    skipped = {row["row"]: row["reason"] for row in document["skipped"]}
    assert {"spd/onnxruntime-cpu", "matmul/onnxruntime-cpu"} <= measured
    assert measured - {"matmul/onnxruntime-cpu", "matmul/onnxruntime-cuda"} | set(skipped) == {
        str(row) for row in ROWS if row.network == "spd"
    }
    assert ("spd/openvino" in measured) == (importlib.util.find_spec("openvino") is not None)
    assert skipped["spd/openvino:int8"] == "left out by --quick"
    assert all(skipped.values())

    # The exported atto takes 512 points a call, so K = 1024 is left out; its graphs are counted elsewhere.
    rows = {row["K"]: row for row in document["rows"] if row["backend"] == "onnxruntime-cpu" and row["part"] != "total"}
    assert sorted(rows) == [0, 1, 256]
    assert rows[256]["gmac"] == pytest.approx(256 * 1_492_848 / 1e9)
    assert rows[256]["scene_mb"] == pytest.approx(1.122048)
    assert all(len(row["rounds_ms"]) == 2 and row["median_ms"] > 0 for row in rows.values())
    assert 30 < rows[1]["peak_mb"] <= rows[256]["peak_mb"] < 2000
    name = "encoder: spd/onnxruntime-cpu / its products at the matrix rate"
    ratio = document["ratios"][name]["160x192"]
    assert 0 < ratio["p10"] <= ratio["median"] <= ratio["p90"]
    assert document["break_even_k"] == {"160x192": {}}, "no dense network was measured"
    assert document["machine"]["threads"] == 1
    assert document["network"] == "atto"
    others = document["machine"]["others"]
    assert (others is None) == (not Path("/proc/stat").exists())
    assert "--quick, a first look: fewer rows and K, rounds: 2" in document["notes"]

    assert f"| {name} | 160x192 |" in done.stdout
    assert "loading spd/onnxruntime-cpu at 160x192" in done.stderr
    assert "round 2 of 2" in done.stderr
    with Image.open(picture) as image:
        assert image.format == "PNG"


def left_of(group: int) -> bool:
    """Whether a process group still has members after some seconds."""
    for _ in range(50):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.1)
    return True


@pytest.fixture
def running(exported: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    arguments = ["--bundle", str(exported), "--rows", "spd/onnxruntime-cpu", "--rounds", "1000"]
    process = subprocess.Popen(
        command(*arguments, "--json", str(tmp_path / "x.json")),
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    yield process
    process.kill()
    process.communicate()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no process groups that take SIGINT")
@pytest.mark.parametrize("moment", ["loading matmul", "loading spd", "round 2 of"])
def test_ctrl_c_leaves_nothing(running: subprocess.Popen[str], tmp_path: Path, moment: str) -> None:
    assert running.stderr is not None
    for line in running.stderr:
        if moment in line:
            break
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does
    out, rest = running.communicate(timeout=60)
    assert running.returncode == 130
    assert rest.splitlines()[-1] == "Interrupted."
    assert "Traceback" not in rest
    assert not out
    assert not left_of(running.pid)
    left = {path.name for path in tmp_path.iterdir()} - {".ses"}  # which onnxruntime writes when it is imported
    assert not left, "neither logs nor half of a file"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--sizes", "480"], 2, "'480' is not a size"),
        (["--sizes", "480x640,100x100"], 2, "size 100x100: height and width must be positive multiples of 32"),
        (["--rounds", "0"], 2, "0 is not in the range"),
        (["--json", "a.txt"], 2, "a.txt must end in .json"),
        (["--plot", "no/such/folder/a.png"], 2, "the folder of no/such/folder/a.png does not exist; make it first"),
        (["--bundle", "x", "--preset", "tiny"], 2, "--bundle has its own network and size: leave out --preset and"),
        (["--growth", "--rows", "spd/*"], 2, "--growth measures SPD alone and draws nothing: leave out --rows and"),
        (["--rows", "onx"], 1, "Error: --rows 'onx' names no row; expected some of: spd/onnxruntime-cpu"),
        (["--bundle", "no/such/bundle"], 1, "Error: no/such/bundle does not exist, expected a bundle"),
    ],
)
def test_refusals(arguments: list[str], code: int, message: str) -> None:
    done = CliRunner().invoke(main, arguments)
    assert (done.exit_code, done.stdout) == (code, "")
    assert message in done.stderr
    if code == 1:
        assert done.stderr.count("\n") == 1


def test_rows_of_which_none_can_run(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.bench.run.unavailable", lambda row: f"no {row.backend}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # put back afterwards
    done = CliRunner().invoke(
        main, ["--bundle", str(exported), "--rows", "[!y]*/openvino:bf16", "--cache", str(tmp_path)]
    )
    assert done.exit_code == 1
    assert done.stderr == (
        "Error: none of the rows can run here: spd/openvino:bf16: no openvino:bf16; dav2s/openvino:bf16: "
        "no openvino:bf16\n"
    )


def test_help_is_instant_and_loads_nothing_heavy() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from tools.bench.__main__ import main;"
        "assert CliRunner().invoke(main, ['--help']).exit_code == 0;"
        "print(sorted({'numpy', 'onnx', 'onnxruntime', 'rich', 'PIL', 'torch'} & set(sys.modules)))"
    )
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        times.append(time.perf_counter() - begin)
        assert done.stdout == "[]\n"
    assert min(times) < 0.6, "0.3 s on an idle machine"
