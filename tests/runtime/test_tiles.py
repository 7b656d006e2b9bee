"""On a CPU each thread decodes tiles of the points; nobody can tell from the depths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from spd.bundle import open_bundle
from spd.runtime.onnx_runtime import TILE, OnnxRuntimeBackend

Tiled = tuple[OnnxRuntimeBackend, Any, NDArray[np.float32], NDArray[np.float32]]


@pytest.fixture(scope="module")
def tiled(exported: Path) -> Tiled:
    """A backend of three threads, a cache, points, and what one thread answers to all of them in one call."""
    bundle = open_bundle(exported)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (1, bundle.manifest.height, bundle.manifest.width, 3), dtype=np.uint8)
    points = (rng.random((1, 700, 2)) * (bundle.manifest.width, bundle.manifest.height)).astype(np.float32)
    alone = OnnxRuntimeBackend(bundle, "onnxruntime-cpu", "fp32", threads=1)
    expected = alone.decode(alone.encode(image), points)
    assert len(np.unique(expected)) > 600, "points answer alike, so their order would not show"
    backend = OnnxRuntimeBackend(bundle, "onnxruntime-cpu", "fp32", threads=3)
    return backend, backend.encode(image), points, expected


@settings(deadline=None, max_examples=25)
@given(first=st.integers(0, 200), count=st.integers(1, 500))
def test_tiles_answer_what_one_call_answers(tiled: Tiled, first: int, count: int) -> None:
    backend, cache, points, expected = tiled
    got = backend.decode(cache, points[:, first : first + count])
    np.testing.assert_allclose(got, expected[:, first : first + count], rtol=1e-5)


@pytest.mark.parametrize(
    ("count", "sizes"), [(1, [1]), (8, [8]), (9, [8, 1]), (24, [8] * 3), (100, [34, 34, 32]), (200, [34] * 5 + [30])]
)
def test_points_are_shared_out(tiled: Tiled, count: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    backend, cache, points, _ = tiled
    decode, asked = backend._decode, []

    def recorded(cache: dict[str, Any], part: NDArray[np.float32]) -> NDArray[np.float32]:
        asked.append(part.shape[1])
        return decode(cache, part)

    monkeypatch.setattr(backend, "_decode", recorded)
    backend.decode(cache, points[:, :count])
    assert sorted(asked) == sorted(sizes)
    assert max(asked) <= TILE[1]


def test_a_closed_backend_still_answers_for_the_scenes_that_are_left(exported: Path) -> None:
    bundle = open_bundle(exported)
    backend = OnnxRuntimeBackend(bundle, "onnxruntime-cpu", "fp32", threads=2)
    image = np.full((1, bundle.manifest.height, bundle.manifest.width, 3), 99, np.uint8)
    cache, points = backend.encode(image), np.linspace(1, 150, 400, dtype=np.float32).reshape(1, 200, 2)
    before = backend.decode(cache, points)
    backend.close()
    np.testing.assert_allclose(backend.decode(cache, points), before, rtol=1e-5)
