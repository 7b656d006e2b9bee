"""What blocks cost at least: arithmetic and traffic, counted by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.utils.flop_counter import FlopCounterMode

from engines.profile.blocks import BLOCKS
from engines.profile.cost import CostedGraph
from engines.profile.sizes import Sizes
from spd.errors import BackendError, BundleError


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(("graph", "batch", "points"), [("encoder", 1, 0), ("decoder", 1, 256), ("decoder", 2, 37)])
def test_all_arithmetic_is_in_the_blocks(exported: Path, graph: str, batch: int, points: int, precision: str) -> None:
    path = exported / f"{graph}.{precision}.onnx"
    found = CostedGraph(path, graph, points, batch)
    want = found.macs()
    products = [node.name for node in onnx.load(path).graph.node if node.op_type in ("MatMul", "Gemm", "Conv")]
    assert sorted(want) == sorted(products)
    assert len(products) >= 60
    assert all(want.values())
    costs = found.costs()
    assert list(costs) == list(BLOCKS[graph])
    assert sum(cost.macs for cost in costs.values()) == sum(want.values())
    assert costs["other"].macs == 0
    by_prefix = {"encoder": ("stages/2/", "stage 3"), "decoder": ("b3a/", "B3a")}
    prefix, block = by_prefix[graph]
    assert costs[block].macs == sum(count for name, count in want.items() if name.startswith(prefix)) > 0


@pytest.mark.parametrize("graph", ["encoder", "decoder"])
def test_the_traffic_of_the_real_graphs_is_within_its_bounds(exported: Path, graph: str) -> None:
    """Every weight is read, and a float16 graph moves half of a float32 one, but for indices, points and images."""
    single, half = (
        CostedGraph(exported / f"{graph}.{precision}.onnx", graph, 256).costs() for precision in ("fp32", "fp16")
    )
    weights = sum(
        tensor.nbytes
        for tensor in map(numpy_helper.to_array, onnx.load(str(exported / f"{graph}.fp32.onnx")).graph.initializer)
    )
    assert sum(cost.bytes for cost in single.values()) > weights
    for block, cost in single.items():
        if block == "TopK":  # float32 scores and int64 indices in every precision
            assert half[block] == cost
        else:
            assert 0.5 * cost.bytes <= half[block].bytes <= 0.65 * cost.bytes or cost.bytes == 0


def write(path: Path, *, dim: str = "B") -> Path:
    """A decoder of three operators, and views: B1 gathers 2 K rows of 8 values from 100, B2 multiplies and adds."""
    nodes = [
        helper.make_node("Reshape", ["l1_map", "flat"], ["b1/Reshape"], "b1/Reshape"),
        helper.make_node("Gather", ["b1/Reshape", "index"], ["b1/Gather"], "b1/Gather"),
        helper.make_node("Unsqueeze", ["b1/Gather", "axis"], ["b1/Unsqueeze"], "b1/Unsqueeze"),
        helper.make_node("MatMul", ["b1/Unsqueeze", "w"], ["b2/MatMul"], "b2/MatMul"),
        helper.make_node("Add", ["b2/MatMul", "b"], ["depth"], "b2/Add"),
    ]

    def tensor(name: str, shape: list[int | str], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, shape)

    weights = [
        numpy_helper.from_array(np.zeros((8, 5), np.float32), "w"),
        numpy_helper.from_array(np.zeros(5, np.float32), "b"),
        numpy_helper.from_array(np.array([-1, 8]), "flat"),
        numpy_helper.from_array(np.array([0]), "axis"),
    ]
    graph = helper.make_graph(
        nodes,
        "decoder",
        [tensor("l1_map", [dim, 100, 8]), tensor("index", ["K", 2], TensorProto.INT64)],
        [tensor("depth", [1, "K", 2, 5])],
        weights,
        value_info=[
            tensor("b1/Reshape", [f"100*{dim}", 8]),
            tensor("b1/Gather", ["K", 2, 8]),
            tensor("b1/Unsqueeze", [1, "K", 2, 8]),
            tensor("b2/MatMul", [1, "K", 2, 5]),
        ],
    )
    onnx.save(helper.make_model(graph), str(path))
    return path


@pytest.mark.parametrize(("points", "read"), [(3, 3 * 2 * 8 * 4), (1000, 100 * 8 * 4)])
def test_traffic_by_hand(tmp_path: Path, points: int, read: int) -> None:
    costs = CostedGraph(write(tmp_path / "g.onnx"), "decoder", points).costs()
    gathered, indices = points * 2 * 8 * 4, points * 2 * 8
    # B1 reads rows (the whole map at most) and indices, and hands over what it gathered. Views move nothing.
    assert costs["B1"].bytes == read + indices + gathered
    # B2 reads that, its weights and its bias, and gives depth; the product stays inside.
    assert costs["B2"].bytes == gathered + 8 * 5 * 4 + 5 * 4 + points * 2 * 5 * 4
    assert costs["B2"].macs == points * 2 * 5 * 8
    assert (costs["B1"].macs, costs["B5"].macs, costs["B5"].bytes) == (0, 0, 0)


def test_a_dimension_that_is_not_of_b_and_k_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"l1_map has the dimension 'batch', which is not made of B and K; export"):
        CostedGraph(write(tmp_path / "g.onnx", dim="batch"), "decoder", 3).costs()


PRODUCTS: list[tuple[str, dict[str, int | list[int]], list[list[int]], torch.nn.Module]] = [
    ("Gemm", {"transB": 1}, [[3, 7], [5, 7], [5]], torch.nn.Linear(7, 5)),
    ("Gemm", {}, [[3, 7], [7, 5], [5]], torch.nn.Linear(7, 5)),
    ("MatMul", {}, [[2, 4, 3, 7], [7, 5]], torch.nn.Linear(7, 5)),
    ("Conv", {"group": 2, "pads": [1, 1, 0, 0]}, [[1, 4, 6, 5], [6, 2, 3, 3]], torch.nn.Conv2d(4, 6, 3, groups=2)),
    ("ConvTranspose", {"strides": [2, 2]}, [[1, 4, 6, 5], [4, 3, 2, 2]], torch.nn.ConvTranspose2d(4, 3, 2, stride=2)),
]


@pytest.mark.parametrize(("kind", "attributes", "shapes", "module"), PRODUCTS)
def test_products_cost_what_torch_counts(
    kind: str, attributes: dict[str, Any], shapes: list[list[int]], module: torch.nn.Module
) -> None:
    names = ["x", "w", "b"][: len(shapes)]
    node = helper.make_node(kind, names, ["y"], "y", **attributes)
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in zip(names, shapes, strict=True)]
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    model = onnx.shape_inference.infer_shapes(helper.make_model(helper.make_graph([node], "g", values, [result])))
    image = torch.zeros(shapes[0])
    if kind == "Conv":
        image = torch.nn.functional.pad(image, (1, 0, 1, 0))
    with FlopCounterMode(display=False) as counter:
        module(image)
    sizes = Sizes(model.graph, "g.onnx")
    assert sizes.macs(node) == counter.get_total_flops() // 2 > 0
    assert sizes.macs(helper.make_node("Add", ["x", "x"], ["y"])) == 0


def test_a_shape_that_is_not_said_is_an_error(tmp_path: Path) -> None:
    model = onnx.load(write(tmp_path / "g.onnx"))
    del model.graph.value_info[:]
    onnx.save(model, tmp_path / "g.onnx")
    with pytest.raises(BundleError, match=r"g\.onnx does not say the shape of b1/Unsqueeze; export"):
        CostedGraph(tmp_path / "g.onnx", "decoder", 3).macs()


def test_onnx_missing_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "g.onnx")
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(BackendError, match=r"onnx is missing: pip install 'spd-depth\[profile\]'"):
        CostedGraph(path, "decoder", 3)
