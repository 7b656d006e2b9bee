"""The exported bundle, in this process and behind servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from serve_support import client_of
from starlette.testclient import TestClient

import spd
from spd.data.rooms import render_room
from spd.runtime import Model


@pytest.fixture(scope="session")
def load(exported: Path) -> Callable[..., Model]:
    """Loads the bundle as every server of these tests does; takes a cache budget."""

    def load(cache_budget: int | None = None) -> Model:
        return spd.load(exported, backend="onnxruntime-cpu", precision="fp32", threads=1, cache_budget=cache_budget)

    return load


@pytest.fixture(scope="session")
def model(load: Callable[..., Model]) -> Iterator[Model]:
    """The bundle in this process, for what the server should answer."""
    with load() as loaded:
        yield loaded


@pytest.fixture(scope="session")
def client(load: Callable[..., Model]) -> Iterator[TestClient]:
    """A client of a server in this process; several tests share it."""
    with client_of(load, max_points=3000, max_upload=200_000, max_pixels=100_000) as client:
        yield client


@pytest.fixture(scope="session")
def room() -> NDArray[np.uint8]:
    """A room of another size than the bundle's image."""
    return render_room(3, 120, 200).image


@pytest.fixture(scope="session")
def points() -> NDArray[np.float32]:
    """[300, 2] in that room, its corners among them."""
    points = (np.random.default_rng(1).random((300, 2)) * (200, 120)).astype(np.float32)
    points[:3] = (0, 0), (199.5, 119.5), (0.5, 0.5)
    return points
