"""The exported bundle on the CPU, and the literal network that it was made from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import spd
from spd.checkpoint import save_checkpoint
from spd.config import PRESETS
from spd.data.rooms import render_room
from spd.models import SPD, seeded
from spd.runtime import Model

LiteralDepth = Callable[[NDArray[np.uint8], NDArray[np.float64]], NDArray[np.float64]]


@pytest.fixture(scope="session")
def network() -> SPD:
    """What `exported` was exported from."""
    return seeded(PRESETS["atto"])


@pytest.fixture(scope="session")
def literal_depth(network: SPD) -> LiteralDepth:
    """Depth by the literal network: image uint8 [H, W, 3] of the graph's size, points [K, 2] in its pixels."""

    def depth(image: NDArray[np.uint8], points: NDArray[np.float64]) -> NDArray[np.float64]:
        pixels = torch.tensor(image.transpose(2, 0, 1)[None], dtype=torch.float32) / 255
        with torch.no_grad():
            return network(pixels, torch.tensor(points[None], dtype=torch.float32))[0].double().numpy()

    return depth


@pytest.fixture(scope="session")
def checkpoint(network: SPD, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "atto.pt"
    save_checkpoint(path, network.state_dict(), PRESETS["atto"])
    return path


@pytest.fixture(scope="session")
def model(exported: Path) -> Iterator[Model]:
    """The bundle in fp32 on the CPU; do not close it."""
    with spd.load(exported, backend="onnxruntime-cpu") as loaded:
        yield loaded


@pytest.fixture(scope="session", params=["onnxruntime-cpu", "openvino"])
def cpu_model(request: pytest.FixtureRequest, exported: Path) -> Iterator[Model]:
    """The bundle in fp32 on each backend that runs bundles on a CPU; do not close it."""
    with spd.load(exported, backend=request.param) as loaded:
        yield loaded


@pytest.fixture(scope="session")
def rooms() -> list[NDArray[np.uint8]]:
    """Three rooms of the size of the bundle's image."""
    return [render_room(seed, 160, 192).image for seed in (3, 4, 5)]


@pytest.fixture(scope="session")
def points() -> NDArray[np.float64]:
    """[300, 2], all over an image of 192 x 160 pixels, its corner and borders among them."""
    points = np.random.default_rng(1).random((300, 2)) * (192, 160)
    points[:4] = (0, 0), (191.999, 159.999), (0, 80), (96, 159.999)
    return points
