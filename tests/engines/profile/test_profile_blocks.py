"""Blocks by name: of the real exported graphs, of what ONNX Runtime makes of them, of names that runtimes invent."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from engines.profile.blocks import BLOCKS, OTHER, block_of_name, blocks_of_nodes


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("graph", ["encoder", "decoder"])
def test_every_exported_node_has_a_block(exported: Path, graph: str, precision: str) -> None:
    nodes = onnx.load(str(exported / f"{graph}.{precision}.onnx")).graph.node
    blocks = blocks_of_nodes(graph, nodes)
    assert set(BLOCKS[graph]) - {OTHER} == set(blocks) - {OTHER}
    other = [node.name for node, block in zip(nodes, blocks, strict=True) if block == OTHER]
    assert all(name.startswith("shape/") for name in other), "the sizes of the inputs belong to nobody, all else does"
    assert len(other) <= 0.02 * len(nodes)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("graph", ["encoder", "decoder"])
def test_every_node_that_onnx_runtime_made_has_a_block(
    exported: Path, tmp_path: Path, graph: str, precision: str
) -> None:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    path = str(exported / f"{graph}.{precision}.onnx")
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    before, after = onnx.load(path).graph.node, onnx.load(options.optimized_model_filepath).graph.node
    known = {node.name for node in before}
    assert any(node.name not in known for node in after), "it fused something, or this tests nothing"
    blocks = Counter(blocks_of_nodes(graph, after))
    assert blocks[OTHER] <= 0.02 * len(after)
    # Fusing keeps an operator in its block: what multiplies is where it was exported.
    assert _products(graph, before) == _products(graph, after)


def _products(graph: str, nodes: list[onnx.NodeProto]) -> Counter[str]:
    kinds = ("MatMul", "FusedMatMul", "Conv", "TopK")
    return Counter(
        block for node, block in zip(nodes, blocks_of_nodes(graph, nodes), strict=True) if node.op_type in kinds
    )


@pytest.mark.parametrize(
    ("graph", "name", "block"),
    [
        ("encoder", "normalisation/Cast", "normalisation"),
        ("encoder", "stem/0/Conv_nchwc", "stem"),
        ("encoder", "stages/0/blocks/2/grn/Mul", "stage 1"),
        ("encoder", "stages/3/downsample/0/Conv", "stage 4"),
        ("encoder", "l3_self_attn/layers/0/MatMul", "L3 attention"),
        ("encoder", "l4_self_attn/layers/0/MatMul", "L4 attention"),
        ("encoder", "neck/dense/1/MatMul", "neck"),
        ("encoder", "InsertedPrecisionFreeCast_precompute/Pad_7", "pre-compute"),
        ("decoder", "b3a/layers/0/MatMul/MatmulTransposeFusion/", "B3a"),
        ("decoder", "/b3b/layers/1/MatMul", "B3b"),
        ("decoder", "b5/attention/layers/2/ffn/fc1/MatMul + b5/Add", "B5"),
        ("decoder", "Reformatting CopyNode for Input Tensor 0 to head/w_r1/MatMul", "head"),
        ("decoder", "{ForeignNode[b1/Mul...b2/layers/0/Add]}", "B1"),
        ("decoder", "shape/Shape_2", OTHER),
        ("decoder", "TopK", None),
        ("decoder", "stages/0/blocks/0/Gelu", None),
        ("encoder", "b1/Mul", None),
        ("decoder", "b12/Mul", None),
        ("decoder", "club1/Mul", None),
        ("decoder", "b5/head/Mul", "B5"),
        ("decoder", "b1.embedding", None),
        ("encoder", "stages/4/Mul", None),
        ("decoder", "", None),
    ],
)
def test_names(graph: str, name: str, block: str | None) -> None:
    assert block_of_name(graph, name) == block


PATHS = {"b1": "B1", "b2": "B2", "b3a": "B3a", "b3b": "B3b", "b5": "B5", "head": "head"}


@given(
    st.sampled_from(sorted(PATHS)),
    st.text("abcxyz0123_/", max_size=12),
    st.sampled_from(["", "Inserted_", "Memcpy ", "{ForeignNode[", "[ONNX Layer: "]),
)
def test_what_is_put_around_a_path_does_not_matter(module: str, rest: str, before: str) -> None:
    assert block_of_name("decoder", f"{before}{module}/{rest}") == PATHS[module]


def test_what_has_no_path_goes_with_its_reader_else_with_its_writer() -> None:
    nodes = [
        helper.make_node("ReorderInput", ["image"], ["r0"], "ReorderInput"),
        helper.make_node("Cast", ["r0"], ["r1"], "token_1"),
        helper.make_node("Conv", ["r1"], ["stem/0/Conv"], "stem/0/Conv_nchwc"),
        helper.make_node("ReorderOutput", ["stem/0/Conv"], ["out"], "ReorderOutput"),
        helper.make_node("Shape", ["image"], ["size"], "shape/Shape"),
        helper.make_node("Squeeze", ["size"], ["one"], "Squeeze_token"),
        helper.make_node("Range", ["one"], ["neck/Range"], ""),
        helper.make_node("Exp", ["elsewhere"], ["nobody"], "Exp"),
    ]
    assert blocks_of_nodes("encoder", nodes) == ["stem", "stem", "stem", "stem", OTHER, "neck", "neck", OTHER]


def test_routing_is_a_block_and_its_gather_is_b5s() -> None:
    nodes = [
        helper.make_node("ReduceMean", ["alpha"], ["b3b/layers/1/ReduceMean"], "b3b/layers/1/ReduceMean"),
        helper.make_node("TopK", ["b3b/layers/1/ReduceMean"], ["TopK", "routes"], "TopK"),
        helper.make_node("Gather", ["l4_routed", "routes"], ["Gather"], "Gather"),
        helper.make_node("Concat", ["x", "Gather"], ["b5/Concat_2"], "b5/Concat_2"),
    ]
    assert blocks_of_nodes("decoder", nodes) == ["B3b", "TopK", "B5", "B5"]
