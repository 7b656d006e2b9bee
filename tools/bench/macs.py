"""Multiply-accumulates of any of the graphs."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import TYPE_CHECKING

from spd.errors import ExportError

if TYPE_CHECKING:
    import onnx_ir as ir


@functools.cache
def macs_of_file(path: Path, batch: int = 1, points: int = 0) -> int:
    """Multiply-accumulates of an ONNX file for B images of K points each.

    Raises:
        ExportError: a shape in the graph is not known.
    """
    import onnx_ir as ir  # for --help

    return macs_of(ir.load(path), batch, points)


def macs_of(model: ir.Model, batch: int = 1, points: int = 0) -> int:
    """As `macs_of_file`, of a graph in memory."""
    return sum(multiply_accumulates(model, batch, points).values())


def multiply_accumulates(model: ir.Model, batch: int, points: int = 0) -> dict[str, int]:
    """Multiply-accumulates of every product and convolution, by node name, for B images of K points each.

    Raises:
        ExportError: a shape in the graph is not known.
    """
    costs: dict[str, int] = {}
    for node in model.graph:
        if node.op_type not in ("MatMul", "Gemm", "Conv", "ConvTranspose"):
            continue
        left, right, output = (_sizes(value, batch, points) for value in (*node.inputs[:2], node.outputs[0]))
        if node.op_type == "ConvTranspose":
            # Of whole strides, as Depth Anything's two are: each input meets each weight of its channel once.
            cost = math.prod(left) * math.prod(right[1:])
        elif node.op_type == "Conv":
            cost = math.prod(output) * math.prod(right[1:])  # in / groups x kernel
        else:
            cost = math.prod(output) * right[-2]
        costs[str(node.name)] = cost
    return costs


def _sizes(value: ir.Value | None, batch: int, points: int) -> list[int]:
    if value is None or value.shape is None:
        raise ExportError(f"the shape of {'an input' if value is None else value.name} is not known")
    known = {"B": batch, "K": points}
    sizes = []
    for dim in value.shape:
        if isinstance(dim, int):
            sizes.append(dim)
        elif str(dim) in known:
            sizes.append(known[str(dim)])
        else:
            raise ExportError(f"the shape of {value.name} has the dimension {dim}, which is neither B nor K")
    return sizes
