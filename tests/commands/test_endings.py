"""How every command ends where something around it is missing: a stream, a package, a thread, memory."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from importlib import import_module
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from spd.commands.cli import Command

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
COMMANDS = {
    "spd-infer": "spd.commands.infer.cli",
    "spd-train": "spd.commands.train",
    "spd-eval": "spd.commands.evaluate",
    "spd-doctor": "spd.commands.doctor",
    "spd-export": "export.cli",
    "spd-build": "engines.cli",
    "spd-calibrate": "calib.cli",
    "spd-serve": "spd.serve.cli",
    "spd-profile": "engines.profile.cli",
    "spd-bulk": "spd.bulk.cli",
    "spd-triton": "engines.triton.cli",
}
FULL = "Error: standard output: No space left on device\n"
CLOSED = "Error: standard output: is closed\n"

STREAMS = {
    "--help > /dev/full": (1, FULL),
    "--version > /dev/full": (1, FULL),
    "--help >&-": (1, CLOSED),
    "--version >&-": (1, CLOSED),
    "--help >&- 2>&-": (1, ""),
    "--help 2>&-": (0, ""),
    "--nonsense 2>&-": (2, ""),
    "--nonsense 2> /dev/full": (1, ""),
    "--help closed stdout": (141, ""),
    "--version closed stdout": (141, ""),
    "--nonsense closed stderr": (141, ""),
}
"""What the shell is told, or the stream that is a pipe whose reader went away: the exit code, and what is on stderr."""


def test_all_commands_are_here() -> None:
    lines = (ROOT / "setup.cfg").read_text(encoding="utf-8").splitlines()
    entries = dict(line.strip().removesuffix(":main").split(" = ") for line in lines if line.startswith("    spd-"))
    assert entries == COMMANDS


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full, nor a shell's redirections")
@pytest.mark.parametrize("module", COMMANDS.values(), ids=COMMANDS)
def test_streams_that_cannot_be_written(module: str, tmp_path: Path) -> None:
    processes = {}
    for line in STREAMS:
        arguments, _, closed = line.partition(" closed ")
        reading, writing = os.pipe()
        os.close(reading)
        with (tmp_path / str(len(processes))).open("wb") as err:
            processes[line] = subprocess.Popen(
                ["sh", "-c", f'exec "$0" -m {module} {arguments}', sys.executable],
                env=ENVIRONMENT,
                stdout=writing if closed == "stdout" else subprocess.DEVNULL,
                stderr=writing if closed == "stderr" else err,
            )
        os.close(writing)
    ended = {line: process.wait() for line, process in processes.items()}
    said = {line: (tmp_path / str(i)).read_text() for i, line in enumerate(STREAMS)}
    assert {line: (ended[line], said[line]) for line in STREAMS} == STREAMS


def test_doctor_says_where_its_table_could_not_go() -> None:
    done = subprocess.run(
        ["sh", "-c", f'"$0" -m {COMMANDS["spd-doctor"]} --json >&-', sys.executable],
        env=ENVIRONMENT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, CLOSED)


def test_a_file_does_not_take_the_place_of_a_closed_stream(tmp_path: Path) -> None:
    """What a library prints on stderr would otherwise end up in the first file that is opened."""
    code = (
        "import os, sys, click; from spd.commands.cli import Command\n"
        "@click.command(cls=Command)\n"
        "def main():\n    open(sys.argv[1], 'w').fileno() > 2 or os._exit(3)\n"
        "main([])"
    )
    for closed in ("2>&-", ">&- 2>&-", "<&- >&- 2>&-", "<&- 2>&-"):
        script = f'exec "$0" -c "$1" "$2" {closed}'
        done = subprocess.run(
            ["sh", "-c", script, sys.executable, code, str(tmp_path / "file")], env=ENVIRONMENT, check=False
        )
        assert done.returncode == 0, closed


WITHOUT = """
import importlib, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {heavy}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
importlib.import_module({module!r}).main(prog_name="spd")
"""
HEAVY = (
    *("torch", "torchvision", "timm", "onnx", "onnx_ir", "onnxscript", "safetensors", "tensorrt", "cuda"),
    *("transformers", "lightning_fabric", "tensorboard", "h5py", "scipy"),
    *("starlette", "uvicorn", "prometheus_client", "python_multipart"),
)
NEEDS: dict[str, tuple[str, str, str]] = {
    "spd-export": ("--seed-checkpoint atto --out new", "", "export"),
    "spd-export, engines": ("--seed-checkpoint atto --out new --build yes", "tensorrt", "tensorrt"),
    "spd-calibrate": ("--seed-checkpoint atto --images photos --out new.json", "", "export"),
    "spd-profile": ("BUNDLE", "onnx", "profile"),
    "spd-build": ("BUNDLE", "", "tensorrt"),
    "spd-train": ("--out new", "", "train"),
    "spd-eval": ("model.pt --data rooms --images 1", "", "export"),
    "spd-infer": ("photos/a.png --points grid:2 --engines model.pt", "", "export"),
    "spd-serve": ("engines", "", "serve"),
}


@pytest.mark.parametrize(("arguments", "package", "extra"), NEEDS.values(), ids=NEEDS)
def test_in_a_base_installation(
    request: pytest.FixtureRequest, tmp_path: Path, arguments: str, package: str, extra: str
) -> None:
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (64, 48)).save(tmp_path / "photos/a.png")
    (tmp_path / "model.pt").write_bytes(b"looked at by torch only")
    before = sorted(tmp_path.rglob("*"))
    if "BUNDLE" in arguments:
        arguments = arguments.replace("BUNDLE", str(request.getfixturevalue("exported")))
    module = COMMANDS[request.node.callspec.id.split(",")[0]]
    code = WITHOUT.format(heavy=HEAVY, module=module)
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments.split()],
        cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert "Traceback" not in done.stderr
    line = done.stderr.splitlines()[-1]  # there may be progress before it
    assert line.startswith("Error: ")
    assert f"{package} is missing: " in line if package else "missing: " in line
    assert line.endswith(f"pip install 'spd-depth[{extra}]'")
    assert sorted(tmp_path.rglob("*")) == before


def run_raising(error: BaseException, **options: str) -> Result:
    @click.command(cls=Command, **options)
    def command() -> None:
        raise error

    return CliRunner().invoke(command, [])


LINES: dict[str, tuple[BaseException, str]] = {
    "package": (ModuleNotFoundError("No module named 'h5py'", name="h5py"), "h5py is missing: pip install 'spd-depth["),
    "part of a package": (ModuleNotFoundError("no", name="onnx.defs"), "onnx.defs is missing: pip install"),
    "thread": (RuntimeError("can't start new thread"), "the system allows no more threads; raise the limit"),
    "memory": (MemoryError("Unable to allocate 9.00 TiB"), "the memory is full: Unable to allocate 9.00 TiB"),
    "memory, of Python": (MemoryError(), "the memory is full: MemoryError"),
    "file": (OSError(errno.ENOSPC, "No space left", "a\nb"), "a b: No space left"),
}


@pytest.mark.parametrize(("error", "words"), LINES.values(), ids=LINES)
def test_in_one_line(error: BaseException, words: str) -> None:
    result = run_raising(error)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert result.stderr.startswith(f"Error: {words}")


@pytest.mark.parametrize(
    "error",
    [
        ModuleNotFoundError("No module named 'spd.nothing'", name="spd.nothing"),
        ModuleNotFoundError("no name"),
        ImportError("cannot import name 'x' from 'torch'", name="torch"),
        RuntimeError("another"),
        AssertionError("ours"),
    ],
    ids=str,
)
def test_mistakes_of_our_own_are_not_hidden(error: BaseException) -> None:
    assert run_raising(error, extra="export").exception is error


def test_several_images_where_no_thread_can_be_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exported: Path
) -> None:
    """The real command; what ran before has ended, and nothing is written."""
    for name in "ab":
        Image.new("RGB", (64, 48)).save(tmp_path / f"{name}.png")

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    arguments = [str(tmp_path), "--points", "grid:2", "--engines", str(exported), "--out", str(tmp_path / "out.csv")]
    result = CliRunner().invoke(import_module(COMMANDS["spd-infer"]).main, arguments)
    assert result.exit_code == 1
    said = result.stderr.splitlines()[-1]
    assert said.startswith("Error: ")
    assert "can't start new thread" in said
    assert "ulimit -u" in said
    assert "Traceback" not in result.output
    assert not (tmp_path / "out.csv").exists()
