"""What is timed computes the depth: every runtime that is here says the same of the same points."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.profile.run import inputs as make_inputs
from spd.bundle import open_bundle
from spd.config import PRESETS
from tools.bench.growth import Batch, PublicScene
from tools.bench.rows import Row
from tools.bench.subject import ENCODE, Inputs, Subject
from tools.bench.subjects import MatrixProduct, dense_image, make_subject
from tools.bench.torch_subject import TorchLiteral

COUNT = 24


@pytest.fixture(scope="module")
def inputs(exported: Path) -> Inputs:
    manifest = open_bundle(exported).manifest
    return Inputs(*make_inputs(manifest.height, manifest.width, COUNT), threads=1)


def depth_of(subject: Subject) -> Any:
    """After another K and another encoding, as in the rounds."""
    subject.prepare(ENCODE)
    subject.decode(1)
    subject.encode()
    return subject.decode(COUNT).copy()


@pytest.fixture(scope="module")
def expected(exported: Path, inputs: Inputs) -> Any:
    depth = depth_of(make_subject(Row("spd", "onnxruntime-cpu"), exported, inputs))
    assert depth.shape == (1, COUNT)
    assert len(np.unique(depth)) > COUNT // 2
    return depth


def test_the_literal_form_in_torch(expected: Any, inputs: Inputs, tmp_path: Path) -> None:
    # The exported bundle has the weights of `seeded`, too.
    subject = TorchLiteral(Row("literal", "torch"), PRESETS["atto"], tmp_path, inputs)
    np.testing.assert_allclose(depth_of(subject), expected, rtol=1e-4)
    kept = subject.kept_mb()
    assert kept is not None
    assert 0.5 < kept < 2


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is not installed")
def test_openvino(exported: Path, expected: Any, inputs: Inputs) -> None:
    subject = make_subject(Row("spd", "openvino"), exported, inputs)
    np.testing.assert_allclose(depth_of(subject), expected, rtol=1e-4)
    assert subject.kept_mb() == pytest.approx(1.122048)


def test_the_public_interface(exported: Path, expected: Any, inputs: Inputs) -> None:
    subject = PublicScene(exported, inputs.image[0], inputs.points[0], threads=1)
    np.testing.assert_allclose(depth_of(subject), expected, rtol=1e-5)


def test_a_batch(exported: Path, expected: Any, inputs: Inputs) -> None:
    bundle = open_bundle(exported)
    files = {graph: bundle.graph(graph, "fp32") for graph in ("encoder", "decoder")}
    twice = Inputs(inputs.image.repeat(2, axis=0), inputs.points.repeat(2, axis=0), threads=1)
    subject = Batch(files, twice)
    np.testing.assert_allclose(depth_of(subject), expected.repeat(2, axis=0), rtol=1e-4)
    assert subject.kept_mb() == pytest.approx(2 * 1.122048)


def test_the_dense_networks_image(inputs: Inputs) -> None:
    image = dense_image(inputs)
    assert (image.shape, image.dtype) == ((1, 3, 154, 196), np.float32)
    assert 0.9 < image.std() < 1.1


def test_the_matrix_product_is_what_the_profiler_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fast:
        flops = 2e12

    monkeypatch.setattr("engines.profile.machine.measure", lambda settings, bandwidth: Fast)
    # 1024^3 multiply-accumulates at 10^12 a second.
    assert MatrixProduct("onnxruntime-cpu", threads=1).turn(ENCODE) == pytest.approx(1.073741824)
