"""The inputs that Polygraphy is given: a real cache and points of the bundle's size, or one line on what is wrong."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from spd.bundle import open_bundle
from spd.bundle.gate import check_images
from spd.data.rooms import render_room
from spd.errors import BundleError, ImageError, InputError
from tools.polygraphy_inputs import feed, load_data, model_path

DTYPES = {"fp32": np.float32, "fp16": np.float16}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_decoder_gets_the_cache_of_a_room_and_points_in_it(exported: Path, precision: str) -> None:
    inputs = feed(exported / f"decoder.{precision}.onnx", {})
    bundle = open_bundle(exported)
    for spec in bundle.manifest.contract.decoder_inputs:
        assert inputs[spec.name].shape == spec.resolved(1, 256)
        assert inputs[spec.name].dtype == (DTYPES[precision] if spec.dtype == "graph" else np.float32)
    points = inputs["points"][0]
    assert ((points >= 0) & (points < (192, 160))).all()
    assert (np.ptp(points, axis=0) > (150, 120)).all(), "all over the image"

    encoder = onnxruntime.InferenceSession(
        str(exported / f"encoder.{precision}.onnx"), providers=["CPUExecutionProvider"]
    )
    expected = encoder.run(["l1_map", "l4_routed"], {"image": check_images(160, 192)[:1]})
    np.testing.assert_array_equal(inputs["l1_map"], expected[0])
    np.testing.assert_array_equal(inputs["l4_routed"], expected[1])


def test_the_encoder_gets_the_image(exported: Path) -> None:
    inputs = feed(exported / "encoder.fp32.onnx", {})
    assert list(inputs) == ["image"]
    np.testing.assert_array_equal(inputs["image"], check_images(160, 192)[:1])


def test_a_photo_is_letterboxed(exported: Path, tmp_path: Path) -> None:
    photo = render_room(3, 80, 192).image
    Image.fromarray(photo).save(tmp_path / "photo.png")
    image = feed(exported / "encoder.fp32.onnx", {"SPD_IMAGE": str(tmp_path / "photo.png")})["image"]
    assert (image.shape, image.dtype) == ((1, 160, 192, 3), np.uint8)
    np.testing.assert_array_equal(image[0, 40:120], photo)


def test_the_number_of_points_is_asked_for(exported: Path) -> None:
    assert feed(exported / "decoder.fp32.onnx", {"SPD_POINTS": "5"})["points"].shape == (1, 5, 2)


@pytest.mark.parametrize("count", ["0", "513", "-1", "many", "2.5"])
def test_a_number_of_points_that_cannot_be(exported: Path, count: str) -> None:
    with pytest.raises(InputError, match=r"SPD_POINTS is .*, expected a number from 1 to the bundle's 512"):
        feed(exported / "decoder.fp32.onnx", {"SPD_POINTS": count})


def test_what_cannot_be_fed(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="bfloat16, which numpy does not have"):
        feed(exported / "decoder.bf16.onnx", {})
    with pytest.raises(BundleError, match=r"other\.onnx is no graph of"):
        feed(exported / "other.onnx", {})
    with pytest.raises(BundleError, match="holds no bundle"):
        feed(tmp_path / "decoder.fp32.onnx", {})
    with pytest.raises(ImageError):
        feed(exported / "encoder.fp32.onnx", {"SPD_IMAGE": str(tmp_path / "none.png")})


def test_the_graph_is_polygraphys_or_the_one_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPD_MODEL", raising=False)
    assert model_path(["polygraphy", "run", "x/decoder.fp32.onnx", "--onnxrt", "y.onnx"]) == Path("x/decoder.fp32.onnx")
    with pytest.raises(InputError, match="no graph: set SPD_MODEL"):
        model_path(["polygraphy", "run", "--onnxrt"])
    monkeypatch.setenv("SPD_MODEL", "z/decoder.fp16.onnx")
    assert model_path(["polygraphy", "run", "x/decoder.fp32.onnx"]) == Path("z/decoder.fp16.onnx")


def test_polygraphys_function_yields_once_and_fails_in_one_line(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["polygraphy", "run", str(exported / "encoder.fp32.onnx")])
    monkeypatch.delenv("SPD_MODEL", raising=False)
    assert [list(inputs) for inputs in load_data()] == [["image"]]
    monkeypatch.setenv("SPD_MODEL", "nowhere/decoder.fp32.onnx")
    with pytest.raises(SystemExit, match=r"^Error: nowhere does not exist, expected a bundle"):
        list(load_data())
