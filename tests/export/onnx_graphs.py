"""A graph file as `onnx` alone sees it: types and shapes inferred anew, who makes and who reads each tensor."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import Message
from onnx import TensorProto

PRECISIONS = ("fp32", "fp16", "bf16")
GRAPHS = ("encoder", "decoder")
DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
NAMES = {"FLOAT": "float32", "FLOAT16": "float16", "BFLOAT16": "bfloat16", "DOUBLE": "float64"}


def dtype_name(number: int) -> str:
    """ONNX's number of a dtype as numpy writes it."""
    name = TensorProto.DataType.Name(number)
    return NAMES.get(name, name.lower())


class Graph:
    """One graph file; whatever shapes and types it claims for its inner tensors are dropped and inferred again."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        stripped = onnx.ModelProto()
        stripped.CopyFrom(model)
        del stripped.graph.value_info[:]
        # check_type is left to onnx.checker: here the types are read, there they are judged.
        inferred = onnx.shape_inference.infer_shapes(stripped, strict_mode=True, data_prop=True).graph
        self.types: dict[str, str] = {}
        self.shapes: dict[str, list[int | str]] = {}
        for value in (*inferred.value_info, *inferred.input, *inferred.output):
            tensor = value.type.tensor_type
            self.types[value.name] = dtype_name(tensor.elem_type)
            self.shapes[value.name] = [dim.dim_value or dim.dim_param for dim in tensor.shape.dim]
        self.initialisers = {tensor.name: tensor for tensor in model.graph.initializer}
        for name, tensor in self.initialisers.items():
            self.types[name], self.shapes[name] = dtype_name(tensor.data_type), list(tensor.dims)
        self.nodes = list(model.graph.node)
        self.producer = {name: node for node in self.nodes for name in node.output}
        self.readers: dict[str, list[Any]] = {}
        for node in self.nodes:
            for name in filter(None, node.input):
                self.readers.setdefault(name, []).append(node)

    def of(self, *op_types: str) -> list[Any]:
        """The nodes of these operators."""
        return [node for node in self.nodes if node.op_type in op_types]

    def under(self, *scopes: str) -> list[Any]:
        """The nodes of these modules."""
        return [node for node in self.nodes if any(f"/{scope}/" in f"/{node.name}" for scope in scopes)]

    def dtypes(self, node: Any) -> list[str]:
        """Types of everything a node reads and writes."""
        return [self.types[name] for name in (*node.input, *node.output) if name]

    def upstream(self, name: str) -> Iterator[Any]:
        """Every node that a tensor depends on."""
        seen: set[str] = set()
        todo = [name]
        while todo:
            node = self.producer.get(todo.pop())
            if node is not None and node.name not in seen:
                seen.add(node.name)
                yield node
                todo.extend(filter(None, node.input))


def attribute(node: Any, name: str, default: Any) -> Any:
    """An attribute's value, or ONNX's default for it."""
    found = [onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == name]
    return found[0] if found else default


@cache
def graph_file(folder: Path, graph: str, precision: str) -> Graph:
    """A graph of a bundle that is not written to."""
    return Graph(onnx.load(folder / f"{graph}.{precision}.onnx"))


def strings(message: Message) -> Iterator[str]:
    """Every string anywhere in a protobuf message."""
    for field, value in message.ListFields():
        for item in value if field.is_repeated else [value]:
            if isinstance(item, Message):
                yield from strings(item)
            elif isinstance(item, str):
                yield item
            elif isinstance(item, bytes) and field.name != "raw_data":
                yield item.decode("utf-8", errors="replace")
