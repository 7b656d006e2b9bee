"""The ladder of presets: the command on the exported bundle, its table and picture, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from PIL import Image
from plot_support import cut_off, overlaps
from rich.console import Console
from rtx_support import needs_rtx

import engines.rtx
from export.graphs import GraphPair
from spd.bundle import GRAPHS, open_bundle
from spd.commands.progress import Phases
from spd.config import PRESETS
from spd.errors import BackendError
from tools.bench.graphs import Wanted
from tools.bench.spread import Spread
from tools.bench_check import counts_of_kernels, read_committed
from tools.ladder import count, main
from tools.ladder_report import Rung, draw, markdown

ROOT = Path(__file__).parents[2]
SMALL = ["--preset", "atto", "--size", "160x192"]
COUNTS = read_committed()["counts"]["atto 160x192"]


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "tools.ladder", *map(str, arguments)]


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture
def cache(exported: Path, tmp_path: Path) -> Path:
    """A cache that has the exported bundle, whose files are links to the shared ones."""
    folder = Wanted("spd", PRESETS["atto"], 160, 192).folder(tmp_path / "cache")
    shutil.copytree(exported, folder, copy_function=os.link)
    return tmp_path / "cache"


def test_it_counts_and_measures_a_preset(cache: Path, exported: Path, tmp_path: Path) -> None:
    found, picture = tmp_path / "ladder.json", tmp_path / "ladder.png"
    done = run(
        *SMALL, "--no-kernels", "--rounds", "2", "--threads", "1", "--cache", cache, "--json", found, "--plot", picture
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(found.read_text())
    (rung,) = document["presets"]
    assert (rung["preset"], rung["parameters"]) == ("atto", 6_132_985)
    assert rung["encoder_macs"] == COUNTS["fp32"]["encoder_macs"]
    assert rung["decoder_macs_per_point"] == COUNTS["fp32"]["decoder_macs_per_point"]
    assert rung["scene_bytes"] == {precision: COUNTS[precision]["scene_bytes"] for precision in ("fp32", "fp16")}
    assert rung["graph_bytes"] == {
        precision: sum((exported / f"{graph}.{precision}.onnx").stat().st_size for graph in GRAPHS)
        for precision in ("fp32", "fp16")
    }
    assert (rung["kernels"], rung["moved_bytes"], document["compiler"]) == (None, None, None)
    assert 0 < rung["encode_ms"]["median"] < rung["total_ms"]["median"]
    assert rung["encode_ms"]["rounds"] == rung["total_ms"]["rounds"] == document["rounds"] == 2
    assert (document["size"], document["points"], document["machine"]["threads"]) == ([160, 192], 256, 1)

    header, _, row = done.stdout.splitlines()[:3]
    assert "T(256) ms" in header
    assert "kernels" not in header
    assert row.startswith("| atto | 6.1 | 0.470 | 1.49 | ")
    assert row.endswith(" | 1.1 / 0.6 |")
    assert "loading atto/fp32 at 160x192" in done.stderr
    assert "exporting" not in done.stderr
    with Image.open(picture) as image:
        assert image.format == "PNG"


@needs_rtx
def test_kernels_are_those_of_the_float16_graphs(exported: Path) -> None:
    with open(os.devnull, "w") as nowhere:
        rung = count("atto", exported, True, Phases(Console(file=nowhere)))
    graphs = GraphPair(*(ir.load(exported / f"{graph}.fp16.onnx") for graph in GRAPHS))
    known = counts_of_kernels(graphs, open_bundle(exported).manifest.contract)
    assert rung.kernels == (known["encoder_kernels"], known["decoder_kernels"])
    assert rung.moved_bytes == (known["encoder_kernel_bytes"], known["decoder_kernel_bytes"])


def test_without_the_compiler_the_rest_is_counted(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: str) -> None:
        raise BackendError("TensorRT for RTX is missing: install it")

    monkeypatch.setattr(engines.rtx, "rtx_compiler", missing)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # put back afterwards
    done = CliRunner().invoke(main, [*SMALL, "--no-times", "--cache", str(cache)])
    assert done.exit_code == 0, done.stderr
    assert "- kernels are not counted: TensorRT for RTX is missing: install it" in done.stdout
    assert " ms |" not in done.stdout.splitlines()[0]
    assert "MB moved" not in done.stdout


@pytest.mark.slow
def test_what_it_exports_is_kept(tmp_path: Path) -> None:
    arguments = ["--preset", "atto", "--size", "128x160", "--no-times", "--no-kernels", "--cache", tmp_path / "cache"]
    first, second = run(*arguments), run(*arguments)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr
    assert "exporting atto" in first.stderr
    assert not second.stderr
    assert first.stdout.splitlines()[:3] == second.stdout.splitlines()[:3]
    manifest = open_bundle(Wanted("spd", PRESETS["atto"], 128, 160).folder(tmp_path / "cache")).manifest
    assert (manifest.preset, manifest.precisions, manifest.verified) == ("atto", ("fp32", "fp16"), False)


def left_of(group: int) -> bool:
    """Whether a process group still has members after some seconds."""
    for _ in range(50):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.1)
    return True


@pytest.mark.skipif(os.name == "nt", reason="Windows has no process groups that take SIGINT")
@pytest.mark.parametrize(
    ("size", "moment"),
    [
        ("128x160", "exporting atto"),
        pytest.param("128x160", "cache: 5 s", marks=pytest.mark.slow),  # torch traces by then
        ("160x192", "round 2 of"),
    ],
)
def test_ctrl_c_leaves_nothing(cache: Path, tmp_path: Path, size: str, moment: str) -> None:
    (tmp_path / "tmp").mkdir()
    arguments = ["--preset", "atto", "--size", size, "--no-kernels", "--rounds", "1000", "--cache", cache]
    process = subprocess.Popen(
        command(*arguments, "--json", tmp_path / "x.json"),
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(tmp_path / "tmp")},
    )
    try:
        assert process.stderr is not None
        assert any(moment in line for line in process.stderr)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        out, rest = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130
    assert rest.splitlines()[-1] == "Interrupted."
    assert "Traceback" not in rest
    assert not out
    assert not left_of(process.pid)
    left = {path.name for path in (tmp_path / "tmp").iterdir()} - {".ses"}  # which onnxruntime writes when imported
    assert not left
    assert not (tmp_path / "x.json").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--no-times", "--plot", "a.png"], 2, "--no-times measures no times: leave out --plot"),
        (["--no-times", "--rounds", "3"], 2, "--no-times measures no times: leave out --rounds"),
        (["--size", "100x100"], 2, "size 100x100: height and width must be positive multiples of 32"),
        (["--preset", "base"], 2, "'base' is not one of 'atto', 'femto', 'pico', 'nano', 'tiny'"),
        (["--json", "a.txt"], 2, "a.txt must end in .json"),
    ],
)
def test_refusals(arguments: list[str], code: int, message: str) -> None:
    done = CliRunner().invoke(main, arguments)
    assert (done.exit_code, done.stdout) == (code, "")
    assert message in done.stderr


def test_an_export_that_fails_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # put back afterwards
    (tmp_path / "file").touch()
    cache = tmp_path / "file" / "cache"
    done = CliRunner().invoke(main, [*SMALL, "--no-times", "--no-kernels", "--cache", str(cache)])
    assert (done.exit_code, done.stdout) == (1, "")
    assert "Error: atto cannot be exported: NotADirectoryError" in done.stderr.splitlines()[-1]


def test_help_is_instant_and_loads_nothing_heavy() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from tools.ladder import main;"
        "assert CliRunner().invoke(main, ['--help']).exit_code == 0;"
        "print(sorted({'numpy', 'onnx', 'onnxruntime', 'rich', 'PIL', 'torch', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# The table and the picture, of made-up figures.

ABOUT: dict[str, Any] = {
    "date": "2026-01-01 00:00 UTC",
    "command": "python -m tools.ladder",
    "size": (480, 640),
    "points": 256,
    "rounds": 3,
    "compiler": "a compiler",
    "machine": {"cpu": "AMD EPYC 9B45 128-Core Processor with a name $a$", "threads": 2},
    "notes": ["a note"],
}


def rung(preset: str, gmac: float, moved_mb: float, ms: float) -> Rung:
    """1 MMAC per point; times that vary by a tenth."""
    spread = Spread(ms, 0.9 * ms, 1.1 * ms, 3)
    moved = round(moved_mb * 1e6)
    return Rung(
        preset,
        6_132_985,
        round(gmac * 1e9),
        1_000_000,
        {"fp32": 24_683_735, "fp16": 12_345_678},
        {"fp32": 9_000_000, "fp16": 4_500_000},
        (129, 90),
        (moved - 67_000_000, 67_000_000),
        replace(spread, median=ms - 1),
        spread,
    )


RUNGS = [
    rung("atto", 5.6, 298, 60),
    rung("femto", 7.5, 340, 80),
    rung("pico", 12.8, 460, 130),
    rung("nano", 21.3, 612, 180),
    rung("tiny", 36.0, 914, 260),
]


def test_a_table_by_hand() -> None:
    lines = markdown(RUNGS, ABOUT).splitlines()
    assert lines[0].split(" | ")[5:9] == ["kernels", "MB moved", "encode ms", "T(256) ms"]
    assert lines[2] == (
        "| atto | 6.1 | 5.60 | 1.00 | 24.7 / 12.3 | 129 + 90 | 231.0 + 67.0 | 59.0 (54.0–66.0) | 60.0 (54.0–66.0) | "
        "9.0 / 4.5 |"
    )
    assert [line.split(" | ")[0] for line in lines[2:7]] == [f"| {name}" for name in PRESETS]
    assert lines[-1] == "- a note"
    counted = markdown([replace(one, encode_ms=None, total_ms=None) for one in RUNGS], {**ABOUT, "rounds": 0})
    assert " ms" not in counted
    assert "percentile" not in counted


def dots(axes: Axes) -> list[tuple[float, float]]:
    found = [line.get_xydata()[0] for line in axes.lines if line.get_marker() == "o"]
    return [(float(x), float(y)) for x, y in found]


def test_a_dot_for_each_preset_over_arithmetic_and_bytes() -> None:
    made = draw(RUNGS, ABOUT)
    work, moved = made.axes
    assert dots(work) == [
        (pytest.approx(gmac + 0.256), ms) for gmac, ms in ((5.6, 60), (7.5, 80), (12.8, 130), (21.3, 180), (36, 260))
    ]
    assert [x for x, _ in dots(moved)] == pytest.approx([298, 340, 460, 612, 914])
    assert [text.get_text() for text in work.texts] == list(PRESETS)
    assert work.get_ylabel() == "T(256) on the CPU, float32 [ms]"
    assert len(draw([replace(one, moved_bytes=None) for one in RUNGS], ABOUT).axes) == 1


@pytest.mark.parametrize("count", range(1, 6))
@pytest.mark.parametrize("moved", [True, False])
def test_labels_do_not_collide(count: int, moved: bool) -> None:
    made = draw([replace(one, moved_bytes=one.moved_bytes if moved else None) for one in RUNGS[-count:]], ABOUT)
    assert overlaps(made) == []
    assert cut_off(made) == []


@settings(max_examples=20)
@given(st.floats(1e-3, 1e3), st.lists(st.floats(1, 1.6), min_size=5, max_size=5), st.floats(1, 1e4))
def test_every_axis_has_a_tick_whatever_the_times(gmac: float, steps: list[float], ms: float) -> None:
    rungs = []
    for preset, step in zip(PRESETS, steps, strict=True):
        rungs.append(rung(preset, gmac, 100 + gmac, ms))
        gmac, ms = gmac * 1.3, ms * step
    for axes in draw(rungs, ABOUT).axes:
        for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            assert any(low <= tick <= high for tick in axis.get_majorticklocs())
