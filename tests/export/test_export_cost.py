"""What a query costs: the deployed decoder of the paper's network at 480x640, against the literal form by hand."""

from __future__ import annotations

import math

import onnx
import onnx_ir as ir
import pytest
import torch

from engines.profile.sizes import Sizes
from export.decoder import DeployedDecoder
from export.graphs import Limits, _trace
from export.layers import Precision
from spd.bundle.contract import contract
from spd.config import PRESETS
from spd.models import SPD

TINY = PRESETS["tiny"]
HEIGHT, WIDTH, POINTS = 480, 640, 256


@pytest.fixture(scope="module")
def decoder() -> ir.Model:
    tensors = contract(TINY, HEIGHT, WIDTH)
    exact = Precision.of(torch.float32)
    module = DeployedDecoder(SPD(TINY).eval(), HEIGHT, WIDTH, exact).eval()
    return _trace(
        module, "spd_decoder", tensors.decoder_inputs, tensors.decoder_outputs, exact.graph, Limits(), opset=20
    )


def count(model: onnx.ModelProto, batch: int, points: int) -> dict[str, int]:
    """Multiply-accumulates by node, from shapes that onnx infers once B and K are numbers."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    del fixed.graph.value_info[:]
    for value in (*fixed.graph.input, *fixed.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_value = {"B": batch, "K": points}[dim.dim_param]
    # onnx follows a Range only to constants. Every Range of the decoder counts the images.
    fixed.graph.initializer.append(onnx.helper.make_tensor("images", onnx.TensorProto.INT64, [], [batch]))
    for node in fixed.graph.node:
        if node.op_type == "Range":
            node.input[1] = "images"
    graph = onnx.shape_inference.infer_shapes(fixed, strict_mode=True, data_prop=True).graph
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.value_info, *graph.input, *graph.output):
        shapes[value.name] = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    costs = {}
    for node in graph.node:
        if node.op_type in ("MatMul", "Gemm", "Conv"):
            left, right, result = shapes[node.input[0]], shapes[node.input[1]], shapes[node.output[0]]
            assert 0 not in (*left, *right), f"onnx does not know the shapes of {node.name}"
            if node.op_type == "Conv":
                costs[node.name] = math.prod(result) * math.prod(right[1:])
            else:
                assert left[-1] == right[-2]
                rows = math.prod(torch.broadcast_shapes(tuple(left[:-2]), tuple(right[:-2]))) * left[-2]
                costs[node.name] = rows * left[-1] * right[-1]
    return costs


def literal_cost() -> int:
    """Multiply-accumulates of matrix products per query, from the formulas of the paper's section 6."""
    d, ratio = TINY.d, TINY.ffn_ratio
    c1, c2, _, c4 = TINY.neck_channels
    l3_tokens, l4_tokens = (HEIGHT // 16) * (WIDTH // 16), (HEIGHT // 32) * (WIDTH // 32)
    b1 = (c1 + 32) * d + c1 * 2 * 8 + 33 * (c1 + 16) * d + 25 * c2 * d + 9 * c4 * d

    def layer(tokens: int, projected: bool) -> int:
        keys_and_values = 2 * tokens * d * d if projected else 0
        return d * d + keys_and_values + 2 * tokens * d + d * d + 2 * ratio * d * d

    b2 = 2 * layer(33 + 25 + 25 + 9, projected=True)
    b3 = 2 * layer(l3_tokens, projected=False) + 2 * layer(l4_tokens, projected=False)
    b5 = 3 * layer(3 + 20, projected=True)
    head = d * 2 * d + 2 * d
    return b1 + b2 + b3 + b5 + head


def test_the_literal_form_costs_25_million_per_query() -> None:
    assert round(literal_cost() / 1e6, 1) == 25.1


def test_the_deployed_form_costs_at_most_6_and_a_half_million_per_query(decoder: ir.Model) -> None:
    costs = count(ir.to_proto(decoder), 1, POINTS)
    per_query = sum(costs.values()) / POINTS
    assert 5e6 < per_query <= 6.5e6
    assert per_query < literal_cost() / 3.8, "design 4: a quarter of the arithmetic"


@pytest.mark.parametrize(("batch", "points"), [(1, 256), (1, 1), (3, 37)])
def test_the_count_of_the_profile_is_the_independent_one(decoder: ir.Model, batch: int, points: int) -> None:
    model = ir.to_proto(decoder)
    want = count(model, batch, points)
    sizes = Sizes(model.graph, "decoder", points, batch)
    got = {node.name: macs for node in model.graph.node if (macs := sizes.macs(node))}
    assert len(got) > 60
    assert got == want
