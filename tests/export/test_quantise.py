"""8-bit graphs by `spd-export`: which products are quantised, and how."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

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


@pytest.mark.parametrize("precision", QUANTISED)
@pytest.mark.parametrize("graph", GRAPHS)
def test_weights_are_rounded_for_each_channel_and_activations_are_symmetric(
    exported: Path, quantised: Path, graph: str, precision: str
) -> None:
    exact = arrays(onnx.load(exported / f"{graph}.{QUANTISED[precision]}.onnx"))
    model = onnx.load(quantised / f"{graph}.{precision}.onnx")
    held = arrays(model)
    activation, offset = (np.uint8, 128) if precision == "int8" else (np.int8, 0)
    weights = 0
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            zero = held[node.input[2]]
            assert (zero.dtype, zero.shape, int(zero)) == (activation, (), offset)
        elif node.op_type == "DequantizeLinear" and node.input[0] in held:
            rounded, scale, zero = (held[name] for name in node.input)
            original = exact[node.input[0].removesuffix("_quantized")].astype(np.float64)
            assert rounded.dtype == np.int8
            assert not zero.any()
            assert [attribute.i for attribute in node.attribute if attribute.name == "axis"] == [1]
            wanted = np.abs(original).max(axis=0) / 127
            least = 0 if precision == "int8" else 2 * 2.0**-14  # float16 has no smaller scales
            assert (scale >= wanted * (1 - 1e-3)).all()
            assert (scale <= np.maximum(wanted, least) * (1 + 1e-3)).all()
            assert (np.abs(rounded * scale.astype(np.float64) - original) <= 0.52 * scale).all()
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
