"""The parity gate: what it proves of a good bundle, and that damaged weights, overflow and NaN do not pass."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from export_support import HEIGHT, WIDTH, literal
from numpy.typing import NDArray
from onnx import numpy_helper

from export.parity import ParityResult, verify
from export.reference import LiteralReference, make_reference
from export.runners import GraphFiles
from spd.bundle import PARITY, open_bundle
from spd.bundle.gate import check_images, check_points
from spd.bundle.reference import read_reference
from spd.errors import ParityError

ISSUE_TOLERANCES = {"fp32": (1e-4, 1e-4), "fp16": (2e-2, 2e-3), "bf16": (5e-2, 1e-2)}
MOST = 512
FEW = 48  # points per image where a test runs the gate itself


def silent(share: float) -> None:
    assert 0 <= share < 1


@pytest.fixture(scope="module")
def reference() -> LiteralReference:
    return make_reference(literal(), HEIGHT, WIDTH, FEW, silent)


@pytest.fixture(scope="module")
def parity(exported: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((exported / PARITY).read_text(encoding="utf-8"))
    return document


def files_of(folder: Path, precision: str) -> GraphFiles:
    return GraphFiles(precision, folder / f"encoder.{precision}.onnx", folder / f"decoder.{precision}.onnx")


@pytest.fixture
def damaged(exported: Path, tmp_path: Path) -> Callable[..., GraphFiles]:
    """Makes a copy of one precision's files in which one initialiser of one graph is changed."""

    def damage(precision: str, graph: str, tensor: str, change: Callable[[NDArray[Any]], NDArray[Any]]) -> GraphFiles:
        names = [f"{name}.{precision}.onnx" for name in ("encoder", "decoder")]
        for name in names:
            shutil.copy(exported / name, tmp_path / name)
        path = tmp_path / f"{graph}.{precision}.onnx"
        model = onnx.load(path)
        (found,) = (t for t in model.graph.initializer if t.name == tensor)
        array = numpy_helper.to_array(found)
        found.CopyFrom(numpy_helper.from_array(change(array).astype(array.dtype), tensor))
        path.unlink()
        onnx.save(model, path)
        return files_of(tmp_path, precision)

    return damage


def refusal(files: GraphFiles, reference: LiteralReference) -> str:
    with pytest.raises(ParityError) as caught:
        verify(literal(), files, reference, FEW, silent)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{files.precision} graphs")
    return message


# What a good bundle says.


@pytest.mark.parametrize("precision", list(ISSUE_TOLERANCES))
def test_parity_json_proves_every_case(parity: dict[str, Any], precision: str) -> None:
    assert list(parity) == ["fp32", "fp16", "bf16"]
    result = parity[precision]
    most, mean = ISSUE_TOLERANCES[precision]
    assert result["tolerance"] == {"max": most, "mean": mean}
    assert result["passed"] is True
    cases = result["cases"]
    assert all(set(case) == {"runner", "batch", "points", "max_error", "mean_error"} for case in cases)
    for case in cases:
        assert 0 <= case["mean_error"] <= case["max_error"] <= most
    published = "torch-nodes" if precision == "bf16" else "onnxruntime-cpu"
    proven = {(case["batch"], case["points"]) for case in cases if case["runner"] == published}
    assert proven == {(batch, k) for batch in (1, 2) for k in (1, 2, 37, 256, MOST)}
    assert "torch-nodes" in {case["runner"] for case in cases}, "nothing looked for overflow node by node"
    assert result["max_error"] == max(case["max_error"] for case in cases)
    assert result["mean_error"] == max(case["mean_error"] for case in cases if case["points"] >= 37) <= mean


@pytest.mark.parametrize("precision", list(ISSUE_TOLERANCES))
def test_parity_json_names_the_worst_point(parity: dict[str, Any], precision: str) -> None:
    worst = parity[precision]["worst"]
    assert worst["case"] in parity[precision]["cases"]
    assert worst["case"]["max_error"] == parity[precision]["max_error"]
    assert abs(worst["got"] / worst["expected"] - 1) == pytest.approx(worst["case"]["max_error"], rel=1e-6)
    points = check_points(HEIGHT, WIDTH, MOST, worst["image"])
    assert [worst["u"], worst["v"]] in points.astype(float).tolist()


@pytest.mark.parametrize(("precision", "share"), [("fp32", 0.999), ("fp16", 0.99), ("bf16", 0.95)])
def test_routing_is_the_literal_models(parity: dict[str, Any], precision: str, share: float) -> None:
    result = parity[precision]
    assert share <= result["shared_routes"] <= 1
    assert 0 <= result["equal_route_sets"] <= result["shared_routes"]


def test_gate_npz_is_what_the_graphs_were_compared_with(exported: Path, reference: LiteralReference) -> None:
    found = read_reference(open_bundle(exported))
    assert np.array_equal(found.images, check_images(HEIGHT, WIDTH))
    for seed in range(2):
        assert np.array_equal(found.points[seed], check_points(HEIGHT, WIDTH, MOST, seed))
    # torch sums in another order when it answers fewer points at once.
    np.testing.assert_allclose(found.depth[:, :FEW], reference.depth, rtol=1e-5)
    assert np.array_equal(found.undecided[:, :FEW], reference.undecided)


def test_the_gate_passes_the_published_files(exported: Path, reference: LiteralReference) -> None:
    result = verify(literal(), files_of(exported, "fp32"), reference, FEW, silent)
    assert isinstance(result, ParityResult)
    assert result.passed
    assert 0 < result.max_error <= 1e-4
    assert result.as_dict() == json.loads(json.dumps(result.as_dict(), allow_nan=False))


def test_the_reference_covers_what_goes_wrong() -> None:
    points = check_points(HEIGHT, WIDTH, 256, 0)
    assert points.dtype == np.float32
    u, v = points.T
    kinds = {
        "corner": (u == 0) & (v == 0), "far corner": (u == WIDTH) & (v == HEIGHT),
        "left border": (u == 0) & (v > 0), "right border": (u == WIDTH) & (v < HEIGHT),
        "upper border": (v == 0) & (u > 0), "lower border": (v == HEIGHT) & (u < WIDTH),
        "left of it by 6 cells": u == -24, "right of it by 6 cells": u == WIDTH + 24,
        "far outside": (u > 2 * WIDTH) & (v < -HEIGHT),
        "inside": (u > 0) & (u < WIDTH) & (v > 0) & (v < HEIGHT),
    }  # fmt: skip
    assert {name for name, hits in kinds.items() if not hits.any()} == set()
    assert len(np.unique(points, axis=0)) < len(points), "no point is asked twice"


def test_the_reference_is_the_literal_model(reference: LiteralReference) -> None:
    with torch.inference_mode():
        cache = literal().encode(torch.from_numpy(reference.images).permute(0, 3, 1, 2) / 255)
        depth, routes = literal().decode(cache, torch.from_numpy(reference.points[:, :5]))
    np.testing.assert_allclose(reference.depth[:, :5], depth.numpy(), rtol=1e-5)
    assert np.array_equal(np.sort(reference.routes[:, :5]), np.sort(routes.numpy()))
    assert reference.depth.shape == (2, FEW)
    assert not np.array_equal(reference.images[0], reference.images[1])


# What does not pass.


@pytest.mark.parametrize(
    ("precision", "graph", "tensor"),
    [
        ("fp16", "decoder", "b2.layers.1.ffn.fc1.weight"),
        ("fp16", "decoder", "head.w_r1.bias"),
        ("fp32", "encoder", "stages.2.blocks.3.fc1.weight"),
        ("fp32", "encoder", "precompute.l4.weight"),
        ("fp32", "decoder", "b5.attention.layers.0.w_v"),
    ],
)
def test_damaged_weights_are_found_and_named(
    damaged: Callable[..., GraphFiles], reference: LiteralReference, precision: str, graph: str, tensor: str
) -> None:
    rng = np.random.default_rng(1)
    files = damaged(precision, graph, tensor, lambda array: array + rng.normal(0, 0.5, array.shape))
    message = refusal(files, reference)
    module = tensor.removesuffix(".weight").removesuffix(".bias").removesuffix(".w_v").replace(".", "/")
    culprit = message.partition("first tensor that went off: ")[2]
    assert culprit.startswith(f"spd_{graph} {module}/"), message
    assert "do not compute what the model computes" in message
    assert "--no-verify" in message
    # The worst point is a point that was asked, and its numbers are in the message.
    u, v = (float(x) for x in message.partition("worst point (")[2].partition(")")[0].split(", "))
    near = np.abs(reference.points.astype(float) - (u, v)).max(axis=-1)
    assert near.min() <= 1e-3 * max(abs(u), abs(v), 1)


def test_small_damage_beyond_float32s_tolerance_is_found(
    damaged: Callable[..., GraphFiles], reference: LiteralReference
) -> None:
    # One head bias off by 1e-3: depth off by 0.1%, which no eye would see.
    files = damaged("fp32", "decoder", "head.w_r2.bias", lambda array: array + 1e-3)
    message = refusal(files, reference)
    assert "relative depth error 0.001" in message
    assert "spd_decoder head/" in message


@pytest.mark.parametrize(
    ("graph", "tensor", "module"),
    [
        ("decoder", "b2.layers.0.ffn.fc2.weight", "b2/layers/0/ffn/fc2"),
        ("encoder", "stages.1.blocks.0.fc1.weight", "stages/1/blocks/0/fc1"),
    ],
)
def test_float16_overflow_is_an_error_that_names_the_node(
    damaged: Callable[..., GraphFiles], reference: LiteralReference, graph: str, tensor: str, module: str
) -> None:
    largest = float(np.finfo(np.float16).max)

    def enlarge(array: NDArray[Any]) -> NDArray[Any]:
        wide = array.astype(np.float64)
        return wide * (0.99 * largest / np.abs(wide).max())

    files = damaged("fp16", graph, tensor, enlarge)
    message = refusal(files, reference)
    assert message.startswith(f"fp16 graphs: infinity at node {module}/MatMul (MatMul, FLOAT16)")
    assert "% of its values" in message


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_nan_weight_is_an_error_that_names_the_node(
    damaged: Callable[..., GraphFiles], reference: LiteralReference, precision: str
) -> None:
    def poison(array: NDArray[Any]) -> NDArray[Any]:
        copy = array.copy()
        copy.flat[7] = np.nan
        return copy

    message = refusal(damaged(precision, "decoder", "b3a.layers.0.w_o.weight", poison), reference)
    assert message.startswith(f"{precision} graphs: NaN at node b3a/layers/0/w_o/MatMul")


def test_a_decoder_of_another_precisions_weights_is_refused(
    exported: Path, tmp_path: Path, reference: LiteralReference
) -> None:
    # float16 results pass as float16, and must not pass as float32.
    for graph in ("encoder", "decoder"):
        shutil.copy(exported / f"{graph}.fp16.onnx", tmp_path / f"{graph}.fp32.onnx")
    message = refusal(files_of(tmp_path, "fp32"), reference)
    assert "at most 0.0001" in message
