"""Which of the paper's blocks a node of an exported graph belongs to, also after a runtime has fused and renamed it.

The export names every node after its module, `b2/layers/0/ffn/fc1/MatMul`, and its outputs after the node. Runtimes
keep one of these names inside their own, as in `b2/layers/0/MatMul_2/MatmulTransposeFusion/` or
`InsertedPrecisionFreeCast_b5/Concat`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from typing import Any

OTHER = "other"
"""The block of what belongs to none: the sizes of the inputs, and what a runtime adds and does not name."""

BLOCKS: Mapping[str, tuple[str, ...]] = {
    "encoder": (
        "stem", "stage 1", "stage 2", "stage 3", "L3 attention", "stage 4", "neck", "L4 attention", "pre-compute",
        OTHER,
    ),
    "decoder": ("B1", "B2", "B3a", "B3b", "B5", "head", OTHER),
}  # fmt: skip
"""Blocks of each graph in the order in which they run."""

_MODULES: Mapping[str, Mapping[str, str]] = {
    "encoder": {
        "normalisation": "stem",
        "stem": "stem",
        **{f"stages/{i}": f"stage {i + 1}" for i in range(4)},
        "l3_self_attn": "L3 attention",
        "neck": "neck",
        "l4_self_attn": "L4 attention",
        "precompute": "pre-compute",
    },
    "decoder": {"b1": "B1", "b2": "B2", "b3a": "B3a", "b3b": "B3b", "b5": "B5", "head": "head"},
}
"""Block by the first part of a node's path."""

_SIZES = "shape/"
"""The export's path for what asks the inputs for their sizes."""


def block_of_name(graph: str, name: str) -> str | None:
    """The block that a name of a node or a tensor speaks of, or None.

    Args:
        graph: encoder or decoder.
        name: as the export or a runtime gives it; a path may stand anywhere in it, after anything that is no letter,
            digit or slash. The first one counts.
    """
    found = _module_pattern(graph).search(name)
    if found is not None:
        return _MODULES[graph][found[1]]
    return OTHER if name.startswith(_SIZES) else None


@functools.cache
def _module_pattern(graph: str) -> re.Pattern[str]:
    return re.compile(rf"(?:^|[^a-zA-Z0-9/.])/?({'|'.join(_MODULES[graph])})/")


def blocks_of_nodes(graph: str, nodes: Iterable[Any]) -> list[str]:
    """The block of every node of an ONNX graph.

    By its own name, else by its outputs' names; the routing (TopK) is B3b's. The rest, which is the model's own lines
    between the blocks and what a runtime puts between two operators, prepares something for the block that reads it;
    what nobody reads belongs where its inputs come from.

    Args:
        graph: encoder or decoder.
        nodes: `onnx.NodeProto`s in an order in which they can run.
    """
    nodes = list(nodes)
    found = [_own_block(graph, node) for node in nodes]
    readers: dict[str, str] = {}  # block by tensor
    for i in reversed(range(len(nodes))):
        found[i] = found[i] or next((readers[name] for name in nodes[i].output if name in readers), None)
        if found[i] not in (None, OTHER):
            for name in nodes[i].input:
                readers[name] = str(found[i])
    writers: dict[str, str] = {}
    for i, node in enumerate(nodes):
        found[i] = found[i] or next((writers[name] for name in node.input if name in writers), OTHER)
        writers.update(dict.fromkeys(node.output, str(found[i])))
    return [str(block) for block in found]


def _own_block(graph: str, node: Any) -> str | None:
    if graph == "decoder" and node.op_type == "TopK":
        return "B3b"
    return next(filter(None, (block_of_name(graph, name) for name in (node.name, *node.output))), None)
