"""ONNX Runtime's profile: a list of events in Chrome's trace format, read back operator by operator."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

from engines.profile.blocks import OTHER, blocks_of_nodes
from engines.profile.cost import VIEWS
from engines.profile.sizes import Sizes
from engines.profile.times import OperatorTimes
from spd.errors import BackendError

_SUFFIX = "_kernel_time"
"""What ONNX Runtime adds to the node's name in the event of its computation."""

_ITEM_BYTES = {"uint8": 1, "float16": 2, "bfloat16": 2, "int32": 4, "float": 4, "int64": 8, "double": 8, "bool": 1}
"""By ONNX Runtime's names of types."""


def read_trace(text: str, graph: str, optimised: Any, warm_up: int) -> tuple[OperatorTimes, ...]:
    """The operators in a profile, with their times in every run after the first `warm_up`.

    Args:
        text: the profile, JSON; times in it are whole microseconds.
        graph: encoder or decoder.
        optimised: the `onnx.GraphProto` that ONNX Runtime ran.
        warm_up: runs that do not count.

    Raises:
        BackendError: the text is not a profile, or its runs differ in their operators.
    """
    try:
        runs = list(_events_by_run(json.loads(text)))[warm_up:]
        sequences = {tuple((_node_name(event), event["args"]["op_name"]) for event in run) for run in runs}
        seconds = [[event["dur"] * 1e-6 for event in run] for run in runs]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BackendError(f"the profile of ONNX Runtime cannot be read ({error!r}); try another version") from error
    if len(sequences) != 1 or sequences == {()}:
        raise BackendError(
            f"the profile of ONNX Runtime has {len(runs)} runs with {[len(run) for run in runs]} operators, expected "
            "the same operators in each; try fewer --runs"
        )
    (executed,) = sequences
    blocks = blocks_of_nodes(graph, optimised.node)
    weights = Sizes(optimised, "the optimised graph").weights_nbytes()
    found = []
    for (name, kind), node, times, event in zip(
        executed, _executed_nodes(optimised.node, executed), zip(*seconds, strict=True), runs[0], strict=True
    ):
        packed = 0 if node is None else sum(weights.get(tensor, 0) for tensor in optimised.node[node].input)
        block = OTHER if node is None else blocks[node]
        found.append(OperatorTimes(name, kind, block, times, _bytes_moved(event["args"], packed)))
    return tuple(found)


def _events_by_run(events: Any) -> Iterator[list[dict[str, Any]]]:
    """The operators' events of each run, in order."""
    runs = sorted((e for e in events if e.get("name") == "model_run"), key=lambda event: event["ts"])
    operators = [e for e in events if e.get("cat") == "Node" and str(e.get("name")).endswith(_SUFFIX)]
    operators.sort(key=lambda event: event["ts"])  # stable: where the clock did not tick, the file's order stands
    for run in runs:
        end = run["ts"] + run["dur"]
        yield [event for event in operators if run["ts"] <= event["ts"] <= end]


def _node_name(event: dict[str, Any]) -> str:
    return str(event["name"]).removesuffix(_SUFFIX)


def _executed_nodes(nodes: Sequence[Any], executed: Sequence[tuple[str, str]]) -> Iterator[int | None]:
    """Which node each executed operator is, given by its name and kind.

    Nodes without a name, such as the parts of a Gelu, are called `Erf_463` in the profile. They run in the order of the
    graph, so the first without a name is the first whose name is not in the graph.
    """
    named = {node.name: i for i, node in enumerate(nodes) if node.name}
    nameless = (i for i, node in enumerate(nodes) if not node.name)
    for name, kind in executed:
        if name in named:
            yield named[name]
        else:
            i = next(nameless, None)
            yield i if i is not None and nodes[i].op_type == kind else None


def _bytes_moved(facts: dict[str, Any], weights: int) -> int | None:
    """What an operator reads and writes: its inputs and outputs, but of a gathered table only the rows taken.

    Weights that ONNX Runtime has packed for itself are missing among the inputs in the profile, so they are given.
    """
    kind = facts["op_name"]
    if kind in VIEWS:
        return 0
    try:
        written = int(facts["output_size"])
        if kind == "Gather":
            return 2 * written + sum(map(_tensor_nbytes, facts["input_type_shape"][1:]))
        return weights + int(facts["activation_size"]) + written
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _tensor_nbytes(tensor: dict[str, list[int]]) -> int:
    """`{"float": [1, 256, 2]}` is 2048 bytes."""
    return sum(_ITEM_BYTES[dtype] * math.prod(shape) for dtype, shape in tensor.items())
