"""An ONNX model as TensorRT's stand-in sees it: tensors, layers, and how to compute it on the CPU."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

DTYPES: dict[int, str] = {
    TensorProto.FLOAT: "FLOAT",
    TensorProto.FLOAT16: "HALF",
    TensorProto.BFLOAT16: "BF16",
    TensorProto.UINT8: "UINT8",
    TensorProto.INT8: "INT8",
    TensorProto.INT32: "INT32",
    TensorProto.INT64: "INT64",
    TensorProto.BOOL: "BOOL",
}
"""ONNX element types as names of trt.DataType."""

NUMPY: dict[str, type[np.generic]] = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "BF16": np.uint16,
    "UINT8": np.uint8,
    "INT8": np.int8,
    "INT32": np.int32,
    "INT64": np.int64,
    "BOOL": np.bool_,
}
"""How the bytes of a tensor are viewed; bfloat16 by its bits."""


@dataclass(frozen=True)
class Tensor:
    """An input or output of the graph."""

    name: str
    dtype: str
    dims: tuple[int | str, ...]
    """Sizes; a name for a dynamic one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """With -1 for dynamic sizes."""
        return tuple(size if isinstance(size, int) else -1 for size in self.dims)

    def resolved(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """With the dynamic sizes that are known, and -1 for the others."""
        return tuple(size if isinstance(size, int) else sizes.get(size, -1) for size in self.dims)

    def nbytes(self, shape: Sequence[int]) -> int:
        """Bytes of a tensor of this type."""
        return int(np.prod(shape, dtype=np.int64)) * np.dtype(NUMPY[self.dtype]).itemsize


@dataclass(frozen=True)
class Node:
    """One operator."""

    name: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class Graph:
    """A model, from its file's bytes."""

    def __init__(self, model: onnx.ModelProto, data: bytes) -> None:
        self.data = data
        self.sha256 = hashlib.sha256(data).hexdigest()
        constants = {initializer.name for initializer in model.graph.initializer}
        self.inputs = tuple(_tensor(value) for value in model.graph.input if value.name not in constants)
        self.outputs = tuple(_tensor(value) for value in model.graph.output)
        self.nodes = tuple(
            Node(node.name or f"node_{node.op_type}_{i}", node.op_type, tuple(node.input), tuple(node.output))
            for i, node in enumerate(model.graph.node)
        )
        inferred = onnx.shape_inference.infer_shapes(model).graph
        values = (*inferred.value_info, *inferred.input, *inferred.output)
        self.dtypes = {value.name: DTYPES.get(value.type.tensor_type.elem_type, "FLOAT") for value in values}
        """Element type of every tensor, by name."""
        for initializer in model.graph.initializer:
            self.dtypes[initializer.name] = DTYPES.get(initializer.data_type, "FLOAT")
        self.shapes = {value.name: _tensor(value).shape for value in values}
        self._constants = constants

    def activations(self, names: Sequence[str]) -> list[str]:
        """Those of the names that are no constants."""
        return [name for name in names if name and name not in self._constants]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Inputs, then outputs."""
        return (*self.inputs, *self.outputs)


def _tensor(value: onnx.ValueInfoProto) -> Tensor:
    kind = value.type.tensor_type
    dims = tuple(dim.dim_param or (dim.dim_value if dim.HasField("dim_value") else "?") for dim in kind.shape.dim)
    return Tensor(value.name, DTYPES.get(kind.elem_type, "FLOAT"), dims)


@functools.lru_cache(maxsize=16)
def graph_of(data: bytes) -> Graph:
    """Read a model.

    Raises:
        Exception: the bytes are no ONNX model.
    """
    model = onnx.load_from_string(data)
    if not model.graph.node:
        raise ValueError("the model has no nodes")
    return Graph(model, data)


def compute(graph: Graph, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Compute the outputs of a graph; arrays as `NUMPY` has them.

    ONNX Runtime's CPU provider has no bfloat16: graphs with it are evaluated node by node in torch.
    """
    if "BF16" in graph.dtypes.values():
        return _compute_in_torch(graph, inputs)
    session = _session(graph.data)
    return dict(zip((tensor.name for tensor in graph.outputs), session.run(None, dict(inputs)), strict=True))


@functools.lru_cache(maxsize=16)
def _session(data: bytes) -> Any:
    import onnxruntime  # 0.1 s that only execution needs

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def _compute_in_torch(graph: Graph, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    import torch  # seconds that only bfloat16 needs

    from export.evaluate import evaluate  # imports torch

    bfloat16 = {tensor.name for tensor in graph.tensors if tensor.dtype == "BF16"}

    def tensor(name: str, array: NDArray[Any]) -> torch.Tensor:
        array = np.array(array)
        return (
            torch.from_numpy(array.view(np.int16)).view(torch.bfloat16) if name in bfloat16 else torch.from_numpy(array)
        )

    results = evaluate(_model(graph.data), {name: tensor(name, array) for name, array in inputs.items()})
    return {
        name: value.contiguous().view(torch.int16).numpy().view(np.uint16) if name in bfloat16 else value.numpy()
        for name, value in results.items()
    }


@functools.lru_cache(maxsize=4)
def _model(data: bytes) -> Any:
    import onnx_ir  # only bfloat16 needs it

    return onnx_ir.from_proto(onnx.load_from_string(data))
