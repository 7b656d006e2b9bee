"""ONNX Runtime on a real GPU: the same depths as on the CPU, from a cache that stays in GPU memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import spd
from spd.bundle import open_bundle
from spd.data.rooms import render_room
from spd.runtime import Model
from spd.runtime.available import unavailable
from spd.runtime.onnx_runtime import OnnxRuntimeBackend

REASON = unavailable("onnxruntime-cuda")
pytestmark = pytest.mark.skipif(REASON is not None, reason=f"onnxruntime-cuda: {REASON}")


@pytest.fixture(scope="module")
def images() -> list[NDArray[np.uint8]]:
    return [render_room(seed, height, width).image for seed, height, width in ((1, 160, 192), (2, 300, 400))]


@pytest.fixture(scope="module")
def points() -> NDArray[np.float64]:
    """[700, 2] inside the smaller image, more than the bundle takes at once."""
    return np.random.default_rng(0).random((700, 2)) * (192, 160)


@pytest.fixture(scope="module")
def cpu(exported: Path) -> Iterator[Model]:
    with spd.load(exported, backend="onnxruntime-cpu", precision="fp32") as model:
        yield model


@pytest.mark.parametrize(("precision", "relative"), [("fp32", 1e-4), ("fp16", 2e-2)])
def test_depths_are_those_of_the_cpu(
    exported: Path, cpu: Model, images, points: NDArray[np.float64], precision: str, relative: float
) -> None:
    """As close as the gate of the export asks; with TF32, float32 would not be."""
    with spd.load(exported, backend="onnxruntime-cuda", precision=precision) as model:
        assert (model.backend, model.precision) == ("onnxruntime-cuda", precision)
        scenes = [model.encode(image) for image in images]  # alive together
        for scene, image in zip(scenes, images, strict=True):
            np.testing.assert_allclose(scene.depth(points), cpu.encode(image).depth(points), rtol=relative)
            assert scene.depth([]).shape == (0,)


def test_auto_takes_fp16_on_the_gpu(exported: Path) -> None:
    """Unless something better comes first."""
    with spd.load(exported) as model:
        assert model.backend in ("tensorrt", "onnxruntime-cuda")
        assert model.precision == "fp16"


def test_the_cache_is_in_gpu_memory(exported: Path, images) -> None:
    bundle = open_bundle(exported)
    backend = OnnxRuntimeBackend(bundle, "onnxruntime-cuda", "fp16", None)
    cache = backend.encode(images[0][None])
    assert list(cache) == [spec.name for spec in bundle.manifest.contract.encoder_outputs]
    assert {value.device_name() for value in cache.values()} == {"cuda"}
    depth = backend.decode(cache, np.ones((1, 3, 2), np.float32))
    assert {value.device_name() for value in cache.values()} == {"cuda"}
    assert (type(depth), depth.shape, depth.dtype) == (np.ndarray, (1, 3), np.float32)


def test_closed_scenes_give_back_gpu_memory(exported: Path, images) -> None:
    """200 scenes one after another need less than 10 caches more than one did; 200 open ones need many more."""
    torch = pytest.importorskip("torch", reason="asks torch how much GPU memory is free")
    with spd.load(exported, backend="onnxruntime-cuda", precision="fp32") as model:
        assert model.manifest is not None
        cache = sum(4 * math.prod(spec.resolved(1)) for spec in model.manifest.contract.encoder_outputs)
        for _ in range(5):
            model.encode(images[0]).close()
        before = torch.cuda.mem_get_info()[0]
        for _ in range(200):
            model.encode(images[0]).close()
        assert before - torch.cuda.mem_get_info()[0] < 10 * cache
        kept = [model.encode(images[0]) for _ in range(200)]
        assert before - torch.cuda.mem_get_info()[0] > 50 * cache, "the measure does not see caches"
        del kept
