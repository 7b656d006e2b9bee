"""Multiply-accumulates of any of the graphs."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from engines.profile.sizes import Sizes, import_onnx


@functools.cache
def macs_of_file(path: Path, batch: int = 1, points: int = 0) -> int:
    """Multiply-accumulates of an ONNX file for B images of K points each.

    Raises:
        BundleError: a shape in the graph is not known.
    """
    return macs_of(import_onnx().load(str(path)).graph, batch, points)


def macs_of(graph: Any, batch: int = 1, points: int = 0) -> int:
    """As `macs_of_file`, of an `onnx.GraphProto`."""
    sizes = Sizes(graph, graph.name, points, batch)
    return sum(sizes.macs(node) for node in graph.node)
