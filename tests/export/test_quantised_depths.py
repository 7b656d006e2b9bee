"""8-bit graphs: how close their depths stay to float32's, and which backends run them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from export_support import HEIGHT, WIDTH
from quantise_support import depths

import spd
from spd.bundle.contract import QUANTISED
from spd.data.rooms import render_room
from spd.errors import BackendError, BundleError
from spd.runtime.packages import import_openvino


@pytest.fixture(scope="module")
def room() -> np.ndarray[Any, Any]:
    return render_room(5, HEIGHT, WIDTH).image


@pytest.fixture(scope="module")
def points() -> np.ndarray[Any, Any]:
    return np.random.default_rng(3).uniform((0, 0), (WIDTH, HEIGHT), size=(200, 2))


@pytest.mark.parametrize("precision", QUANTISED)
def test_depths_stay_close_to_float32s_and_are_not_them(
    quantised: Path, room: np.ndarray[Any, Any], points: np.ndarray[Any, Any], precision: str
) -> None:
    error = np.abs(depths(quantised, precision, room, points) / depths(quantised, "fp32", room, points) - 1)
    assert 1e-5 < error.mean() < 2e-2


def test_auto_takes_int8_on_a_cpu_and_says_the_same_as_the_graphs(
    quantised: Path, room: np.ndarray[Any, Any], points: np.ndarray[Any, Any]
) -> None:
    with spd.load(quantised, threads=1) as model:
        assert (model.backend, model.precision) == ("onnxruntime-cpu", "int8")
        found = model.encode(room).depth(points)
    np.testing.assert_allclose(found, depths(quantised, "int8", room, points), rtol=1e-5)
    with spd.load(quantised, "onnxruntime-cpu", precision="fp32", threads=1) as model:
        assert model.precision == "fp32"


@pytest.mark.parametrize(("backend", "precision"), [("openvino", None), ("openvino", "int8"), ("auto", "int8-bf16")])
def test_openvino_takes_int8(
    quantised: Path, room: np.ndarray[Any, Any], points: np.ndarray[Any, Any], backend: str, precision: str | None
) -> None:
    """Its rounding is not that of ONNX Runtime, but as close to float32."""
    capabilities = import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if precision == "int8-bf16" and "BF16" not in capabilities:
        pytest.skip("this CPU has no bfloat16")
    with spd.load(quantised, backend, precision=precision, threads=1) as model:
        assert (model.backend, model.precision) == ("openvino", precision or "int8")
        found = model.encode(room).depth(points)
    assert 1e-5 < np.abs(found / depths(quantised, "fp32", room, points) - 1).mean() < 2e-2


def test_int8_bf16_elsewhere(quantised: Path, exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for backend, there in (("tensorrt", "int8-fp16, fp8, fp32"), ("onnxruntime-cpu", "fp32, int8, int8-fp16")):
        with pytest.raises(BackendError, match=f"^{backend} .* int8-bf16: openvino alone does; .* runs {there}: take"):
            spd.load(quantised, backend, precision="int8-bf16")
    with pytest.raises(BundleError, match=r"has no int8 graphs.*export with --precision int8$"):
        spd.load(exported, precision="int8-bf16")
    monkeypatch.setattr(import_openvino().Core, "get_property", lambda *_: ["FP32", "INT8"])
    with pytest.raises(BackendError, match=r"openvino cannot run int8-bf16 here: .* no bfloat16 .*; take int8$"):
        spd.load(quantised, "openvino", precision="int8-bf16")


def test_a_depth_does_not_depend_on_what_else_is_asked(
    quantised: Path, room: np.ndarray[Any, Any], points: np.ndarray[Any, Any]
) -> None:
    together = depths(quantised, "int8", room, points)
    alone = np.concatenate([depths(quantised, "int8", room, points[i : i + 1]) for i in range(3)])
    np.testing.assert_allclose(alone, together[:3], rtol=1e-6)


def test_backends_without_8_bits_say_so(quantised: Path, exported: Path) -> None:
    with pytest.raises(
        BackendError, match=r"onnxruntime-cuda cannot run int8: int8 graphs are for CPUs; .* fp32: take"
    ):
        spd.load(quantised, "onnxruntime-cuda", precision="int8")
    for backend, there in (("onnxruntime-cuda", "fp32"), ("openvino", "fp32, bf16, int8, int8-bf16")):
        with pytest.raises(
            BackendError, match=rf"{backend} cannot run fp8: fp8 graphs are for TensorRT; .* {there}: take"
        ):
            spd.load(quantised, backend, precision="fp8")
    for backend in ("tensorrt", "tensorrt-rtx"):
        with pytest.raises(
            BackendError, match=rf"^{backend} cannot run int8: int8 graphs are for CPUs; .* int8-fp16, fp8"
        ):
            spd.load(quantised, backend, precision="int8")
    with pytest.raises(BundleError, match=r"has no int8 graphs.*export with --precision int8"):
        spd.load(exported, "onnxruntime-cpu", precision="int8")
