"""What the blocks of an exported graph cost whatever runs them: multiply-accumulates, and bytes that must be moved.

Counted on the graph as it was exported, so that runtimes that fuse differently are held to the same floor.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.profile.blocks import BLOCKS, blocks_of_nodes
from spd.errors import BackendError, BundleError
from spd.extras import pip_install

VIEWS = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Shape"})
"""Operators that read a shape, or give the same bytes another one."""

PRODUCTS = ("MatMul", "Gemm", "Conv")


@dataclass(frozen=True)
class Cost:
    """The least that a block takes for one call."""

    macs: int
    """Multiply-accumulates of its matrix products and convolutions."""
    bytes: int
    """Its weights once, and every activation that comes into it from outside or leaves it once. Of a tensor that it
    only gathers rows from, no more than those rows."""


def import_onnx() -> Any:
    """The module `onnx`.

    Raises:
        BackendError: it is missing.
    """
    try:
        import onnx  # needed to profile, not to build engines
    except ImportError as error:
        raise BackendError(f"onnx is missing: {pip_install('profile')}") from error
    return onnx


def weights_nbytes(model: Any) -> dict[str, int]:
    """Bytes of the weights of an `onnx.GraphProto` by name."""
    return {weights.name: _nbytes(weights.dims, weights.data_type) for weights in model.initializer}


def _nbytes(shape: Sequence[int], dtype: int) -> int:
    itemsize: int = import_onnx().helper.tensor_dtype_to_np_dtype(dtype).itemsize
    return math.prod(shape) * itemsize


class CostedGraph:
    """An exported graph with the sizes of its tensors for B images and K points each."""

    def __init__(self, path: Path, graph: str, points: int, batch: int = 1) -> None:
        """Read the graph.

        Args:
            path: an ONNX file of a bundle.
            graph: encoder or decoder.
            points: K.
            batch: B.

        Raises:
            BackendError: onnx is missing.
            BundleError: a tensor has a dimension that is neither a number nor made of B and K.
        """
        model = import_onnx().load(str(path)).graph
        self.nodes: Sequence[Any] = model.node
        self.blocks = blocks_of_nodes(graph, self.nodes)
        self._graph, self._where = graph, str(path)
        self._known = {"B": batch, "K": points}
        self._shapes: dict[str, list[int]] = {}
        self._nbytes: dict[str, int] = {}
        for value in (*model.value_info, *model.input, *model.output):
            tensor = value.type.tensor_type
            shape = [self._size(value.name, dim) for dim in tensor.shape.dim]
            self._shapes[value.name], self._nbytes[value.name] = shape, _nbytes(shape, tensor.elem_type)
        self._shapes.update({weights.name: list(weights.dims) for weights in model.initializer})
        self._nbytes.update(weights_nbytes(model))
        self._outputs = {value.name for value in model.output}

    def macs(self) -> dict[str, int]:
        """Multiply-accumulates by the name of the node."""
        costs = {}
        for node in self.nodes:
            if node.op_type in PRODUCTS:
                weights = self._shapes[node.input[1]]
                # A product contracts over the second-last axis of its right operand, Conv over in/groups x kernel.
                inner = math.prod(weights[1:]) if node.op_type == "Conv" else weights[-2]
                costs[str(node.name)] = math.prod(self._shapes[node.output[0]]) * inner
        return costs

    def costs(self) -> dict[str, Cost]:
        """The cost of each block of `BLOCKS`."""
        macs, traffic = self.macs(), self._traffic()
        return {
            block: Cost(
                macs=sum(
                    macs.get(node.name, 0) for node, own in zip(self.nodes, self.blocks, strict=True) if own == block
                ),
                bytes=traffic[block],
            )
            for block in BLOCKS[self._graph]
        }

    def _traffic(self) -> dict[str, int]:
        """Bytes that cross the border of each block."""
        source: dict[str, str] = {}  # the tensor whose bytes a view shows
        home: dict[str, str] = {}  # the block that computes a tensor
        for node, block in zip(self.nodes, self.blocks, strict=True):
            if node.op_type in VIEWS:
                source[node.output[0]] = source.get(node.input[0], node.input[0])
            else:
                home.update(dict.fromkeys(node.output, block))
        whole: dict[str, set[str]] = defaultdict(set)  # by block: tensors from outside that it reads
        rows: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))  # and those it gathers bytes from
        leaving = {source.get(name, name) for name in self._outputs}
        for node, block in zip(self.nodes, self.blocks, strict=True):
            if node.op_type in VIEWS:
                continue
            for position, name in enumerate(node.input):
                tensor = source.get(name, name)
                if not name or home.get(tensor) == block:
                    continue
                leaving.add(tensor)
                if node.op_type == "Gather" and position == 0:
                    rows[block][tensor] += self._nbytes[node.output[0]]
                else:
                    whole[block].add(tensor)
        traffic = dict.fromkeys(BLOCKS[self._graph], 0)
        for block in traffic:
            traffic[block] += sum(self._nbytes[tensor] for tensor in whole[block])
            traffic[block] += sum(
                min(count, self._nbytes[tensor]) for tensor, count in rows[block].items() if tensor not in whole[block]
            )
            traffic[block] += sum(self._nbytes[tensor] for tensor in leaving if home.get(tensor) == block)
        return traffic

    def _size(self, name: str, dim: Any) -> int:
        """A dimension such as 96, B, or 572*B."""
        if not dim.dim_param:
            return int(dim.dim_value)
        factors = dim.dim_param.split("*")
        if not all(factor.isdecimal() or factor in self._known for factor in factors):
            raise BundleError(
                f"{self._where}: {name} has the dimension {dim.dim_param!r}, which is not made of B and K; export the "
                "bundle again"
            )
        return math.prod(self._known.get(factor) or int(factor) for factor in factors)
