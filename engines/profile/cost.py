"""What the blocks of an exported graph cost whatever runs them: multiply-accumulates, and bytes that must be moved.

They are counted on the graph as it was exported. Runtimes that fuse differently are held to the same floor.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.profile.blocks import BLOCKS, blocks_of_nodes
from engines.profile.sizes import Sizes, import_onnx

VIEWS = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Shape"})
"""Operators that read a shape, or give the same bytes another one."""


@dataclass(frozen=True)
class Cost:
    """The least that a block takes for one call."""

    macs: int
    """Multiply-accumulates of its matrix products and convolutions."""
    bytes: int
    """Its weights once, and every activation that comes into it from outside or leaves it once. Of a tensor that it
    only gathers rows from, no more than those rows."""


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
        """
        model = import_onnx().load(str(path)).graph
        self.nodes: Sequence[Any] = model.node
        self.blocks = blocks_of_nodes(graph, self.nodes)
        self._graph, self._sizes = graph, Sizes(model, str(path), points, batch)
        self._outputs = {value.name for value in model.output}

    def macs(self) -> dict[str, int]:
        """Multiply-accumulates of every product and convolution by the name of the node.

        Raises:
            BundleError: a tensor has a dimension that is neither a number nor made of B and K.
        """
        return {str(node.name): macs for node in self.nodes if (macs := self._sizes.macs(node))}

    def blocks_and_macs(self) -> dict[str, tuple[str, int]]:
        """Block and multiply-accumulates of every node by its name.

        Raises:
            BundleError: as for `macs`.
        """
        macs = self.macs()
        return {
            str(node.name): (block, macs.get(node.name, 0)) for node, block in zip(self.nodes, self.blocks, strict=True)
        }

    def costs(self) -> dict[str, Cost]:
        """The cost of each block of `BLOCKS`.

        Raises:
            BundleError: as for `macs`.
        """
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
        nbytes = self._sizes.nbytes
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
                    rows[block][tensor] += nbytes(node.output[0])
                else:
                    whole[block].add(tensor)
        traffic = dict.fromkeys(BLOCKS[self._graph], 0)
        for block in traffic:
            traffic[block] += sum(nbytes(tensor) for tensor in whole[block])
            traffic[block] += sum(
                min(count, nbytes(tensor)) for tensor, count in rows[block].items() if tensor not in whole[block]
            )
            traffic[block] += sum(nbytes(tensor) for tensor in leaving if home.get(tensor) == block)
        return traffic
