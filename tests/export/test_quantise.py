"""8-bit graphs by `spd-export`: which products are quantised, and how."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from export_support import ATTO, NAME, run
from quantise_support import INT8, arrays

from export.policy import Policy, policy_document
from export.quantise import float_modules, products_to_quantise
from spd.bundle import GRAPHS
from spd.bundle.contract import QUANTISED

NEVER = ("b1/windows/", "b1/learned_window/", "b1/w_off/", "b1/w_phi/", "b3b/layers/1/w_q/", "head/w_r2/")
"""Where products are never quantised: coordinates, routing and the head's last layer."""


@pytest.mark.parametrize("precision", QUANTISED)
@pytest.mark.parametrize("graph", GRAPHS)
def test_products_with_constant_matrices_are_quantised_and_nothing_else(
    exported: Path, quantised: Path, graph: str, precision: str
) -> None:
    base = onnx.load(exported / f"{graph}.{QUANTISED[precision]}.onnx")
    model = onnx.load(quantised / f"{graph}.{precision}.onnx")
    matrices = {name for name, array in arrays(base).items() if array.ndim == 2}
    maker = {output: node for node in model.graph.node for output in node.output}
    expected, found = set(), set()
    for node in base.graph.node:
        if node.op_type == "MatMul" and node.input[1] in matrices and not node.name.startswith(NEVER):
            expected.add(node.name)
    for node in model.graph.node:
        makers = [maker[name].op_type if name in maker else "" for name in node.input]
        if "DequantizeLinear" in makers:
            assert (node.op_type, makers) == ("MatMul", ["DequantizeLinear"] * 2), node.name
            assert maker[maker[node.input[0]].input[0]].op_type == "QuantizeLinear"
            found.add(node.name)
    assert found == expected
    assert len(found) >= (36 if graph == "decoder" else 43)
    # Every node of the base is there, and no other but pairs.
    added = Counter(node.op_type for node in model.graph.node) - Counter(node.op_type for node in base.graph.node)
    assert set(added) == {"QuantizeLinear", "DequantizeLinear"}
    assert {node.name for node in base.graph.node} <= {node.name for node in model.graph.node}


FLOAT8 = onnx.helper.tensor_dtype_to_np_dtype(onnx.TensorProto.FLOAT8E4M3FN)
FORMS: dict[str, tuple[Any, int, Any, int, float]] = {
    "int8": (np.uint8, 128, np.int8, 127, 0),
    "int8-fp16": (np.int8, 0, np.int8, 127, 2 * 2.0**-14),  # float16 has no smaller scales
    "fp8": (FLOAT8, 0, FLOAT8, 448, 2.0**-14),
}
"""The type and offset of activations, the type and largest magnitude of weights, the least scale."""


@pytest.mark.parametrize("graph", GRAPHS)
def test_float8_has_the_ranges_of_int8(quantised: Path, graph: str) -> None:
    models = [onnx.load(quantised / f"{graph}.{precision}.onnx") for precision in ("int8-fp16", "fp8")]
    eight, floating = (
        {n.output[0]: float(arrays(m)[n.input[1]]) for n in m.graph.node if n.op_type == "QuantizeLinear"}
        for m in models
    )
    assert eight.keys() == floating.keys()
    assert len(eight) >= 20
    for name, scale in eight.items():
        assert floating[name] * 448 == pytest.approx(max(scale * 127, 448 * 2.0**-14), rel=2e-3)


@pytest.mark.parametrize("precision", QUANTISED)
@pytest.mark.parametrize("graph", GRAPHS)
def test_weights_are_rounded_for_each_channel_and_activations_are_symmetric(
    exported: Path, quantised: Path, graph: str, precision: str
) -> None:
    exact = arrays(onnx.load(exported / f"{graph}.{QUANTISED[precision]}.onnx"))
    model = onnx.load(quantised / f"{graph}.{precision}.onnx")
    held = arrays(model)
    activation, offset, weight_type, largest, least = FORMS[precision]
    weights = 0
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            zero = held[node.input[2]]
            assert (zero.dtype, zero.shape, float(zero)) == (activation, (), offset)
        elif node.op_type == "DequantizeLinear" and node.input[0] in held:
            rounded, scale, zero = (held[name] for name in node.input)
            original = exact[node.input[0].removesuffix("_quantized")].astype(np.float64)
            assert rounded.dtype == weight_type
            assert not zero.astype(float).any()
            assert [attribute.i for attribute in node.attribute if attribute.name == "axis"] == [1]
            wanted = np.abs(original).max(axis=0) / largest
            assert (scale >= wanted * (1 - 1e-3)).all()
            assert (scale <= np.maximum(wanted, least) * (1 + 1e-3)).all()
            step = scale.astype(np.float64)
            if precision == "fp8":
                step = np.maximum(np.abs(original) / 8, step / 512)
            assert (np.abs(rounded.astype(np.float64) * scale.astype(np.float64) - original) <= 0.52 * step).all()
            weights += 1
    assert weights >= 36


def test_the_files_are_a_third_of_float32s(quantised: Path) -> None:
    sizes = {p: sum((quantised / f"{graph}.{p}.onnx").stat().st_size for graph in GRAPHS) for p in ("fp32", "int8")}
    assert sizes["int8"] <= 0.35 * sizes["fp32"]


def test_modules_of_a_policy_are_left_alone(exported: Path) -> None:
    policy = Policy(("encoder.stages.0.blocks.1", "decoder.b2.layers.0.ffn.fc1"))
    for graph, module in (("encoder", "stages/0/blocks/1/"), ("decoder", "b2/layers/0/ffn/fc1/")):
        model = onnx.load(exported / f"{graph}.fp32.onnx", load_external_data=False)
        without, within = (
            set(products_to_quantise(model, graph, float_modules(ATTO, each))) for each in (Policy(), policy)
        )
        assert without - within == {name for name in without if name.startswith(module)}
        assert without > within


@pytest.mark.usefixtures("quick")
def test_the_command_heeds_the_policy(tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    path.write_text(json.dumps(policy_document(Policy(("encoder.stages.3.blocks.0",)))))
    result = run(*INT8, "--policy", path, "--no-verify", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    model = onnx.load(tmp_path / NAME / "encoder.int8.onnx")
    kept = [n for n in model.graph.node if n.op_type == "MatMul" and n.name.startswith("stages/3/blocks/0/")]
    assert len(kept) == 2
    assert {n.input[1] for n in kept} <= arrays(model).keys()
