"""What a TensorRT engine can be built from: operators and types, checked on the graph.

The table is the ONNX parser's own (onnx-tensorrt 10.1, docs/operators.md), cut down to the operators that occur here.
Later parsers only add to it.
"""

from __future__ import annotations

import onnx_ir as ir

from spd.errors import ExportError

_FLOAT = {"float32", "float16", "bfloat16"}
_INT = {"int32", "int64"}
_ALL = _FLOAT | _INT | {"bool"}

TENSORRT_OPERATORS: dict[str, set[str]] = {
    "Add": _FLOAT | _INT,
    "Cast": _ALL | {"uint8"},
    "Concat": _ALL,
    "Conv": _FLOAT,
    "Cos": _FLOAT,
    "DequantizeLinear": _FLOAT | {"int8", "float8_e4m3fn"},
    "Div": _FLOAT | _INT,
    "Erf": _FLOAT,
    "Exp": _FLOAT,
    "Expand": _ALL,
    "Floor": _FLOAT,
    "Gather": _ALL,
    "Gelu": _FLOAT | _INT,
    "Gemm": _FLOAT,
    "LayerNormalization": _FLOAT,
    "MatMul": _FLOAT,
    "Max": _FLOAT | _INT,
    "Min": _FLOAT | _INT,
    "Mul": _FLOAT | _INT,
    "Pad": _FLOAT | _INT,
    "QuantizeLinear": _FLOAT | {"int8", "float8_e4m3fn"},
    "Range": _FLOAT | _INT,
    "ReduceMean": _FLOAT | _INT,
    "ReduceSum": _FLOAT | _INT,
    "Reshape": _ALL,
    "Shape": _ALL,
    "Sin": _FLOAT,
    "Slice": _ALL,
    "Softmax": _FLOAT,
    "Split": _ALL,
    "Sqrt": _FLOAT,
    "Squeeze": _ALL,
    "Sub": _FLOAT | _INT,
    "Tanh": _FLOAT,
    "TopK": _FLOAT | _INT,
    "Transpose": _ALL,
    "Unsqueeze": _ALL,
}
"""Types that the parser takes per operator. It reads int64 and Gather's indices natively from TensorRT 10 on."""

_CONSTANT_INPUTS = {
    "Pad": (1, 2, 3),
    "ReduceMean": (1,),
    "ReduceSum": (1,),
    "Slice": (3,),
    "Squeeze": (1,),
    "TopK": (1,),
    "Unsqueeze": (1,),
}
"""Inputs that the parser wants as initialisers."""

TOPK_LIMIT = 3840


def check_operators(model: ir.Model) -> None:
    """Refuse a graph that TensorRT's ONNX parser would refuse.

    Raises:
        ExportError: names the node, its operator and what the parser does not take.
    """
    for node in model.graph:
        where = f"{model.graph.name}, node {node.name}"
        if node.domain or node.op_type not in TENSORRT_OPERATORS:
            raise ExportError(f"{where}: TensorRT's parser has no operator {node.domain}::{node.op_type}")
        for value in (*node.inputs, *node.outputs):
            if value is None:
                continue
            dtype = "unknown" if value.dtype is None else str(value.dtype.numpy())
            if dtype not in TENSORRT_OPERATORS[node.op_type]:
                raise ExportError(f"{where}: TensorRT's parser takes no {dtype} ({value.name}) for {node.op_type}")
        for index in _CONSTANT_INPUTS.get(node.op_type, ()):
            value = node.inputs[index] if index < len(node.inputs) else None
            if value is not None and value.const_value is None:
                raise ExportError(f"{where}: TensorRT's parser wants input {index} of {node.op_type} as a constant")
        if node.op_type == "TopK":
            _check_topk(node, where)


def _check_topk(node: ir.Node, where: str) -> None:
    count, sort = node.inputs[1], node.attributes.get("sorted")
    assert count is not None
    assert count.const_value is not None
    if int(count.const_value.numpy().item()) >= TOPK_LIMIT or (sort is not None and not sort.as_int()):
        raise ExportError(f"{where}: TensorRT's parser wants TopK sorted and with fewer than {TOPK_LIMIT} values")
