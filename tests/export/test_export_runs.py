"""The published graphs in ONNX Runtime: any B and K, the literal model's depth, and no query knows of another."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from export_support import HEIGHT, WIDTH, literal
from numpy.typing import NDArray

from spd.bundle import open_bundle
from spd.bundle.contract import cache_tensors
from spd.bundle.gate import TOLERANCES, check_points

BATCHES = (1, 2, 3)
POINTS = (1, 2, 37, 256, 512)
MOST = max(POINTS)
Arrays = dict[str, NDArray[Any]]


@cache
def session(path: Path) -> Any:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint8]:
    """Noise, a ramp and black."""
    rng = np.random.default_rng(5)
    noise = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    ramp = np.linspace(0, 255, HEIGHT * WIDTH * 3).reshape(HEIGHT, WIDTH, 3).astype(np.uint8)
    return np.stack([noise, ramp, np.zeros_like(noise)])


@pytest.fixture(scope="module")
def points() -> NDArray[np.float32]:
    return np.stack([check_points(HEIGHT, WIDTH, MOST, seed) for seed in range(max(BATCHES))])


@pytest.fixture(scope="module")
def expected(images: NDArray[np.uint8], points: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Depth and routes of the literal model."""
    with torch.inference_mode():
        encoded = literal().encode(torch.from_numpy(images).permute(0, 3, 1, 2) / 255)
        depth, routes = literal().decode(encoded, torch.from_numpy(points))
    return depth.double().numpy(), routes.numpy()


@pytest.fixture(scope="module")
def caches(exported: Path, images: NDArray[np.uint8]) -> dict[tuple[str, int], Arrays]:
    """The encoder's outputs by precision and batch; ONNX Runtime has no bfloat16 on the CPU."""
    found = {}
    for precision in ("fp32", "fp16"):
        encoder = session(open_bundle(exported).graph("encoder", precision))
        names = [output.name for output in encoder.get_outputs()]
        for batch in BATCHES:
            outputs = encoder.run(None, {"image": images[:batch]})
            found[precision, batch] = dict(zip(names, outputs, strict=True))
    return found


def decode(exported: Path, precision: str, cache_: Arrays, points: NDArray[np.float32]) -> list[NDArray[Any]]:
    decoder = session(open_bundle(exported).graph("decoder", precision))
    outputs: list[NDArray[Any]] = decoder.run(["depth", "routes"], {**cache_, "points": points})
    return outputs


def test_the_largest_k_is_the_bundles(exported: Path) -> None:
    assert open_bundle(exported).manifest.max_points == MOST


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("batch", BATCHES)
def test_the_cache_has_the_contracts_shapes(
    caches: dict[tuple[str, int], Arrays], exported: Path, precision: str, batch: int
) -> None:
    manifest = open_bundle(exported).manifest
    specs = cache_tensors(manifest.config, manifest.height, manifest.width)
    got = {name: (array.shape, array.dtype.name) for name, array in caches[precision, batch].items()}
    dtype = {"fp32": "float32", "fp16": "float16"}[precision]
    assert got == {spec.name: (spec.resolved(batch), dtype) for spec in specs}
    assert all(np.isfinite(array).all() for array in caches[precision, batch].values())


@pytest.mark.parametrize("k", POINTS)
@pytest.mark.parametrize("batch", BATCHES)
def test_float32_depth_is_the_literal_models_at_any_b_and_k(
    exported: Path,
    caches: dict[tuple[str, int], Arrays],
    points: NDArray[np.float32],
    expected: tuple[NDArray[np.float64], NDArray[np.int64]],
    batch: int,
    k: int,
) -> None:
    depth, routes = decode(exported, "fp32", caches["fp32", batch], np.ascontiguousarray(points[:batch, :k]))
    assert (depth.shape, depth.dtype) == ((batch, k), np.float32)
    assert (routes.shape, routes.dtype) == ((batch, k, 20), np.int64)
    assert np.abs(depth / expected[0][:batch, :k] - 1).max() <= 1e-4
    same = np.sort(routes, axis=-1) == np.sort(expected[1][:batch, :k], axis=-1)
    # Scores that differ by float32's rounding may swap the 20th for the 21st position of a query.
    assert same.all(axis=-1).mean() >= 0.99


@pytest.mark.parametrize(("batch", "k"), [(1, 1), (3, 2), (2, 512)])
def test_float16_depth_is_within_its_tolerance(
    exported: Path,
    caches: dict[tuple[str, int], Arrays],
    points: NDArray[np.float32],
    expected: tuple[NDArray[np.float64], NDArray[np.int64]],
    batch: int,
    k: int,
) -> None:
    depth, _ = decode(exported, "fp16", caches["fp16", batch], np.ascontiguousarray(points[:batch, :k]))
    assert (depth.shape, depth.dtype) == ((batch, k), np.float32)
    assert np.abs(depth / expected[0][:batch, :k] - 1).max() <= TOLERANCES["fp16"].max


def test_a_query_is_answered_alike_alone_and_among_many(
    exported: Path, caches: dict[tuple[str, int], Arrays], points: NDArray[np.float32]
) -> None:
    together, _ = decode(exported, "fp32", caches["fp32", 1], points[:1])
    for i in (0, 1, 24, 255, 511):
        alone, _ = decode(exported, "fp32", caches["fp32", 1], np.ascontiguousarray(points[:1, i : i + 1]))
        assert alone[0, 0] == pytest.approx(together[0, i], rel=1e-5)
    reversed_, _ = decode(exported, "fp32", caches["fp32", 1], np.ascontiguousarray(points[:1, ::-1]))
    assert np.allclose(reversed_[:, ::-1], together, rtol=1e-5, atol=0)


def test_equal_points_get_equal_depths(
    exported: Path, caches: dict[tuple[str, int], Arrays], points: NDArray[np.float32]
) -> None:
    same = np.repeat(points[:1, 40:41], 37, axis=1)
    depth, _ = decode(exported, "fp32", caches["fp32", 1], same)
    assert np.allclose(depth, depth[0, 0], rtol=1e-6, atol=0)


def test_an_image_is_encoded_alike_alone_and_among_others(
    exported: Path, caches: dict[tuple[str, int], Arrays], images: NDArray[np.uint8]
) -> None:
    encoder = session(open_bundle(exported).graph("encoder", "fp32"))
    for image in range(3):
        alone = encoder.run(None, {"image": images[image : image + 1]})
        for array, together in zip(alone, caches["fp32", 3].values(), strict=True):
            scale = np.abs(together[image]).max()
            assert np.abs(array[0] - together[image]).max() <= 1e-5 * scale


def test_each_image_answers_its_own_points(
    exported: Path, caches: dict[tuple[str, int], Arrays], points: NDArray[np.float32]
) -> None:
    depth, _ = decode(exported, "fp32", caches["fp32", 3], np.ascontiguousarray(points[:, :37]))
    order = [2, 0, 1]
    swapped = {name: np.ascontiguousarray(array[order]) for name, array in caches["fp32", 3].items()}
    again, _ = decode(exported, "fp32", swapped, np.ascontiguousarray(points[order, :37]))
    assert np.allclose(again, depth[order], rtol=1e-5, atol=0)
    assert not np.allclose(depth[0], depth[1], rtol=1e-3), "the images have the same depths, so this proves nothing"
