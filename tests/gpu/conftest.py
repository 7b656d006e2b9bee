"""Engines on a real GPU, built by the command, and the models that they are compared with."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from gpu_support import PRECISIONS
from numpy.typing import NDArray

import spd
from spd.data.rooms import render_room
from spd.runtime import Model
from spd.runtime.tensorrt.cuda import Gpu


@pytest.fixture(scope="session")
def engines(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exported bundle with engines of all precisions, built by `spd-build` with its own proof."""
    folder = Path(shutil.copytree(exported, tmp_path_factory.mktemp("engines") / exported.name))
    command = [sys.executable, "-m", "engines.cli", str(folder), "--buckets", "16,64,256"]
    command += [argument for precision in PRECISIONS for argument in ("--precision", precision)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def gpu() -> Iterator[Gpu]:
    """For asking how much memory is free."""
    opened = Gpu()
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def cpu(exported: Path) -> Iterator[Model]:
    with spd.load(exported, backend="onnxruntime-cpu", precision="fp32") as model:
        yield model


@pytest.fixture(scope="session")
def model(engines: Path) -> Iterator[Model]:
    with spd.load(engines) as loaded:
        yield loaded


@pytest.fixture(scope="session")
def rooms() -> list[NDArray[np.uint8]]:
    return [render_room(seed, 160, 192).image for seed in (3, 4, 5)]


@pytest.fixture(scope="session")
def points() -> NDArray[np.float64]:
    """[700, 2], more than the bundle takes at once."""
    return np.random.default_rng(0).random((700, 2)) * (192, 160)
