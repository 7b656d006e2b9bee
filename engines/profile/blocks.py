"""Which of the paper's blocks a node of an exported graph belongs to, also after a runtime has fused and renamed it.

The export names every node after its module, `b2/layers/0/ffn/fc1/MatMul`, and its outputs after the node. Runtimes
keep one of these names inside their own, as in `b2/layers/0/MatMul_2/MatmulTransposeFusion/` or
`InsertedPrecisionFreeCast_b5/Concat`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

OTHER = "other"
"""The block of what belongs to none: the sizes of the inputs, and what a runtime adds and does not name."""

BLOCKS: Mapping[str, tuple[str, ...]] = {
    "encoder": (
        "normalisation", "stem", "stage 1", "stage 2", "stage 3", "L3 attention", "stage 4", "neck", "L4 attention",
        "pre-compute", OTHER,
    ),
    "decoder": ("B1", "B2", "B3a", "B3b", "TopK", "B5", "head", OTHER),
}  # fmt: skip
"""Blocks of each graph in the order in which they run."""

_MODULES: Mapping[str, Mapping[str, str]] = {
    "encoder": {
        "normalisation": "normalisation",
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

    By its own name, else by its outputs' names. The rest, which is the model's own lines between the blocks and what a
    runtime puts between two operators, goes with its readers, as `blocks_by_neighbours` says.

    Args:
        graph: encoder or decoder.
        nodes: `onnx.NodeProto`s in an order in which they can run.
    """
    nodes = list(nodes)
    own = [_own_block(graph, node) for node in nodes]
    return blocks_by_neighbours(own, [(node.input, node.output) for node in nodes])


def blocks_by_neighbours(
    own: Sequence[str | None], tensors: Sequence[tuple[Iterable[str], Iterable[str]]]
) -> list[str]:
    """The blocks of operators, of which some have none of their own.

    Such an operator prepares something for the block that reads it; what nobody reads belongs where its inputs come
    from.

    Args:
        own: block of each operator, in an order in which they can run; None where it does not say.
        tensors: names of each operator's inputs and outputs.
    """
    found = list(own)
    readers: dict[str, str] = {}  # block by tensor
    for i, (inputs, outputs) in reversed(list(enumerate(tensors))):
        found[i] = found[i] or next((readers[name] for name in outputs if name in readers), None)
        if found[i] not in (None, OTHER):
            readers.update(dict.fromkeys(inputs, str(found[i])))
    writers: dict[str, str] = {}
    for i, (inputs, outputs) in enumerate(tensors):
        found[i] = found[i] or next((writers[name] for name in inputs if name in writers), OTHER)
        writers.update(dict.fromkeys(outputs, str(found[i])))
    return [str(block) for block in found]


def _own_block(graph: str, node: Any) -> str | None:
    if graph == "decoder" and node.op_type == "TopK":
        return "TopK"
    return next(filter(None, (block_of_name(graph, name) for name in (node.name, *node.output))), None)
