"""Fixtures for all tests."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from export.publish import tool_versions

pytest_plugins = ["stand_ins.fixtures"]

# Two tests run at once, one on each core; more threads than cores only wait for each other.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)

# A shell ignores SIGINT in what it starts in the background, and so would every command that a test interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

# 5 x 6 = 30 L4 cells, so that choosing 20 of them is a choice; 128x160 has exactly 20.
SMALL_HEIGHT, SMALL_WIDTH = 160, 192


@pytest.fixture(scope="session")
def samples_if_any() -> Path | None:
    """The folder of sample photos beside the checkout."""
    folder = Path(__file__).parents[1] / ".." / "shared" / "samples"
    return folder.resolve() if folder.is_dir() else None


@pytest.fixture(scope="session")
def samples(samples_if_any: Path | None) -> Path:
    """That folder; skips where there is none."""
    if samples_if_any is None:
        pytest.skip("the sample photos (../shared/samples) are not here")
    return samples_if_any


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails whoever opens a connection."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("something reached for the network")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)


@pytest.fixture(scope="session")
def exported(request: pytest.FixtureRequest) -> Path:
    """A bundle of untrained atto in all precisions, made by the real command; do not write to it.

    It takes a minute to make, so pytest's cache keeps it for as long as nothing that it is made from changes. Of
    several processes of a run the first makes it, and the others wait.
    """
    cache = request.config.cache
    assert cache is not None
    folder = Path(cache.mkdir("exported")) / _source_hash()
    name = f"atto-{SMALL_HEIGHT}x{SMALL_WIDTH}"
    with FileLock(folder.with_suffix(".lock")):
        if not (folder / name).is_dir():
            _export(folder)
    return folder / name


def _export(folder: Path) -> None:
    for old in folder.parent.iterdir():
        if old.is_dir() and time.time() - old.stat().st_mtime > 24 * 3600:  # a younger one may be another run's
            shutil.rmtree(old, ignore_errors=True)
    command = [sys.executable, "-m", "export.cli", "--seed-checkpoint", "atto", "--out", str(folder)]
    command += ["--size", f"{SMALL_HEIGHT}x{SMALL_WIDTH}", "--max-points", "512", "--with-routes"]
    command += ["--precision", "fp16", "--precision", "bf16"]
    # The other processes of the run wait for it meanwhile.
    environment = {**os.environ, "OMP_NUM_THREADS": str(os.cpu_count())}
    subprocess.run(command, check=True, capture_output=True, text=True, env=environment)


def _source_hash() -> str:
    """Hash of the sources that decide what an export writes, and of the packages that it uses."""
    root = Path(__file__).parents[1]
    folders = ("export", "spd", "spd/bundle", "spd/checkpoint", "spd/commands", "spd/models", "spd/utils")
    sources = [path for folder in folders for path in (root / folder).glob("*.py")]
    digest = hashlib.sha256(repr(tool_versions()).encode())
    for source in sorted(sources):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Iterator[Path]:
    """The exported bundle, for a test to damage. Its graphs are links to the shared ones: replace them, never edit."""
    folder = tmp_path / "engines" / exported.name
    folder.mkdir(parents=True)
    graphs = sorted(exported.glob("*.onnx"))
    for path in exported.iterdir():
        (os.link if path in graphs else shutil.copyfile)(path, folder / path.name)
    before = [path.stat().st_mtime_ns for path in graphs]
    yield folder
    if [path.stat().st_mtime_ns for path in graphs] != before:
        shutil.rmtree(exported.parent)
        pytest.fail("the test wrote into a graph of the shared bundle; it must put another file in its place")
