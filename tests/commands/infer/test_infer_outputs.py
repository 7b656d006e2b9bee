"""Where `spd-infer` cannot write its results as usual: full disks, files that cannot be replaced, closed pipes."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from infer_support import command
from PIL import Image

SUFFIXES = (".csv", ".json", ".npz", ".png")
NO_SPACE = "No space left on device"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}

needs_dev_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The current folder, with a.png (64 x 48) and an empty folder `mine`."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 48), (90, 120, 150)).save("a.png")
    Path("mine").mkdir()
    return tmp_path


def arguments(out: str, count: int = 2) -> list[str]:
    """A command that writes `count` points to a file, or draws them there."""
    return command("a.png", "--points", f"grid:{count}", "--picture" if out.endswith(".png") else "--out", out)


def run(line: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(line, env=ENVIRONMENT, capture_output=True, text=True, check=False)


def run_with_mounts(script: str, line: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command where a script of the shell has mounted what it likes."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-Urm", "true"], check=False).returncode:
        pytest.skip("this system does not let its users mount anything")
    return run(["unshare", "-Urm", "sh", "-ec", f'{script}\nexec "$@"', "sh", *line])


@needs_dev_full
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_device_without_space(suffix: str) -> None:
    Path(f"out{suffix}").symlink_to("/dev/full")
    done = run(arguments(f"out{suffix}"))
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"Error: out{suffix}: {NO_SPACE}\n")
    assert Path("/dev/full").is_char_device()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk(suffix: str) -> None:
    """The old result stays; nothing else does."""
    script = f"mount -t tmpfs -o size=8k tmpfs mine; echo old > mine/out{suffix}"
    done = run_with_mounts(
        f"{script}; trap 'cat mine/*; ls -A mine' EXIT; (exec \"$@\")", arguments(f"mine/out{suffix}", count=2000)
    )
    assert (done.returncode, done.stderr) == (1, f"Error: mine/out{suffix}: {NO_SPACE}\n")
    assert done.stdout == f"old\nout{suffix}\n"


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("protected", [False, True], ids=["mounted file", "in a folder that is read-only"])
def test_a_file_that_is_mounted_by_itself(suffix: str, protected: bool) -> None:
    """As with `docker run -v ./out.csv:/work/out.csv`, with or without `--read-only`."""
    Path(f"mounted{suffix}").write_bytes(b"old" * 100_000)
    script = f"touch mine/out{suffix}; mount --bind mine mine; " if protected else f"touch mine/out{suffix}; "
    script += "mount -o remount,ro,bind mine; " if protected else ""
    script += f"mount --bind mounted{suffix} mine/out{suffix}"
    done = run_with_mounts(script, arguments(f"mine/out{suffix}"))
    assert (done.returncode, done.stderr) == (0, "")
    assert run(arguments(f"other{suffix}")).returncode == 0
    assert Path(f"mounted{suffix}").read_bytes() == Path(f"other{suffix}").read_bytes()
    assert os.listdir("mine") == [f"out{suffix}"]


@needs_dev_full
def test_stdout_without_space() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            command("a.png", "--points", "grid:2"), stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (1, f"Error: standard output: {NO_SPACE}\n")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_reader_that_goes_away(unbuffered: str) -> None:
    line = command("a.png", "--points", "grid:100000")
    environment = {**ENVIRONMENT, "PYTHONUNBUFFERED": unbuffered}
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141
    done = subprocess.run(line, capture_output=True, env=environment, check=False)
    assert done.stdout.count(b"\n") == 100_001
