"""Multiply-accumulates of any of the graphs."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any


@functools.cache
def macs_of_file(path: Path, batch: int = 1, points: int = 0) -> int:
    """Multiply-accumulates of an ONNX file for B images of K points each.

    Raises:
        ExportError: a shape in the graph is not known.
    """
    import onnx_ir as ir  # noqa: PLC0415 - for --help

    return macs_of(ir.load(path), batch, points)


def macs_of(model: Any, batch: int = 1, points: int = 0) -> int:
    """As `macs_of_file`, of an `onnx_ir.Model`."""
    from export.operators import multiply_accumulates  # noqa: PLC0415

    counted = sum(multiply_accumulates(model, batch, points).values())
    # Depth Anything has two of these, of whole strides: each input meets each weight of its channel once.
    for node in model.graph:
        if node.op_type == "ConvTranspose":
            counted += math.prod(node.inputs[0].shape) * math.prod(node.inputs[1].shape[1:])
    return counted
