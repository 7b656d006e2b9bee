"""Reading ONNX Runtime's profile: a hand-written one, with times and blocks known."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import GraphProto, helper, numpy_helper

from engines.profile.blocks import BLOCKS
from engines.profile.cost import Cost
from engines.profile.machine import Machine
from engines.profile.report import summarise
from engines.profile.times import GraphTimes
from engines.profile.trace import read_trace
from spd.errors import BackendError

# What ONNX Runtime made of a piece of a decoder: a fused product, a Gelu in two nodes without names, and a gather.
NODES = [
    helper.make_node("FusedMatMul", ["h", "keys"], ["scores"], "b2/layers/0/MatMul_2/MatmulTransposeFusion/"),
    helper.make_node("MatMul", ["scores", "weights"], ["head/w_r1/MatMul"], "head/w_r1/MatMul"),
    helper.make_node("Erf", ["head/w_r1/MatMul"], ["_inlfunc_Gelu_1"], ""),
    helper.make_node("Mul", ["head/w_r1/MatMul", "_inlfunc_Gelu_1"], ["head/Gelu"], ""),
    helper.make_node("Gather", ["l4_routed", "routes"], ["Gather"], "Gather"),
    helper.make_node("Reshape", ["Gather", "sizes"], ["b5/Concat"], "Reshape_2"),
]
WEIGHTS = np.zeros((16, 8), dtype=np.float32)
GRAPH: GraphProto = helper.make_graph(NODES, "g", [], [], [numpy_helper.from_array(WEIGHTS, "weights")])

FLOAT = "float"
FACTS = {
    "FusedMatMul": ([{FLOAT: [4, 8]}, {FLOAT: [16, 8]}], {FLOAT: [4, 16]}, 4 * (32 + 128)),
    "MatMul": ([{FLOAT: [4, 16]}], {FLOAT: [4, 8]}, 4 * 64),  # its weights are packed, and missing in the profile
    "Erf": ([{FLOAT: [4, 8]}], {FLOAT: [4, 8]}, 4 * 32),
    "Mul": ([{FLOAT: [4, 8]}, {FLOAT: [4, 8]}], {FLOAT: [4, 8]}, 4 * 64),
    "Gather": ([{FLOAT: [300, 8]}, {"int64": [4, 2]}], {FLOAT: [4, 2, 8]}, 4 * 2400 + 64),
    "Reshape": ([{FLOAT: [4, 2, 8]}, {"int64": [2]}], {FLOAT: [4, 16]}, 4 * 64 + 16),
}
"""Per operator: shapes of its inputs and output, and its activation_size in bytes."""

NAMES = [node.name or f"{node.op_type}_{40 + i}" for i, node in enumerate(NODES)]


def event(name: str, kind: str, start: int, micros: int) -> dict[str, Any]:
    inputs, output, activations = FACTS[kind]
    facts = {
        "op_name": kind,
        "provider": "CPUExecutionProvider",
        "input_type_shape": inputs,
        "output_type_shape": [output],
        "activation_size": str(activations),
        "output_size": str(4 * int(np.prod(output[FLOAT]))),
        "parameter_size": "0",
    }
    return {"cat": "Node", "ph": "X", "name": f"{name}_kernel_time", "ts": start, "dur": micros, "args": facts}


def profile(*runs: list[int]) -> str:
    """A profile of runs whose operators take so many microseconds, 2 of them between any two."""
    events: list[dict[str, Any]] = [
        {"cat": "Session", "name": "session_initialization", "ts": 0, "dur": 50, "args": {}}
    ]
    now = 100
    for micros in runs:
        begin = now
        now += 5
        for name, node, duration in zip(NAMES, NODES, micros, strict=True):
            events.append(event(name, node.op_type, now, duration))
            now += duration + 2
        whole = {"cat": "Session", "args": {}, "ts": begin, "dur": now - begin}
        events += [{**whole, "name": "SequentialExecutor::Execute"}, {**whole, "name": "model_run"}]
        now += 20
    return json.dumps(events)


RUNS = ([900, 900, 900, 900, 900, 900], [10, 20, 3, 4, 5, 1], [12, 26, 3, 6, 5, 1], [30, 22, 3, 2, 9, 1])


def test_operators_have_their_blocks_times_and_bytes() -> None:
    found = read_trace(profile(*RUNS), "decoder", GRAPH, warm_up=1)
    assert [o.name for o in found] == NAMES
    assert [o.kind for o in found] == [node.op_type for node in NODES]
    assert [o.block for o in found] == ["B2", "head", "head", "head", "B5", "B5"]
    assert found[0].seconds == pytest.approx((10e-6, 12e-6, 30e-6))
    assert found[1].median == pytest.approx(22e-6)
    assert [o.bytes for o in found] == [
        4 * (32 + 128 + 64),
        4 * (64 + 128 + 32),  # with the packed weights
        4 * 64,
        4 * 96,
        2 * 4 * 64 + 64,  # the rows that are taken, not the table of 300
        0,
    ]


def test_blocks_are_added_up_run_by_run() -> None:
    operators = read_trace(profile(*RUNS), "decoder", GRAPH, warm_up=1)
    costs = dict.fromkeys(BLOCKS["decoder"], Cost(0, 0))
    costs |= {"B2": Cost(4000, 1000), "head": Cost(2, 800)}
    summary = summarise(GraphTimes("decoder", operators, (1e-3, 3e-3, 2e-3), 4), costs, Machine(1e9, 1e8, "given"))
    assert summary.call_ms == pytest.approx(2.0)
    blocks = {block.block: block for block in summary.blocks}
    assert list(blocks) == ["B2", "B5", "head"], "those that ran or that cost something, in the decoder's order"
    # B2: 10, 12, 30; head: 27, 35, 27; B5: 6, 6, 10. The median of the sums, not the sum of the medians.
    assert [block.ms for block in blocks.values()] == pytest.approx([0.012, 0.006, 0.027])
    assert [block.share for block in blocks.values()] == pytest.approx([12 / 45, 6 / 45, 27 / 45])
    assert [block.operators for block in blocks.values()] == [1, 2, 3]
    assert blocks["head"].bytes_run == 4 * (64 + 128 + 32) + 4 * 64 + 4 * 96
    # B2 is bound by arithmetic: 8000 FLOP at 1 GFLOP/s are 8 us, 1000 bytes at 0.1 GB/s are 10 us; so by traffic.
    assert blocks["B2"].floor_ms == pytest.approx(0.010)
    assert blocks["B2"].over_floor == pytest.approx(1.2)
    assert blocks["B2"].flop_per_byte == pytest.approx(8.0)
    assert blocks["head"].floor_ms == pytest.approx(0.008)
    assert blocks["B5"].over_floor is None, "nothing is at least nothing"


def test_a_machine_that_is_not_known_gives_no_floor() -> None:
    operators = read_trace(profile(*RUNS), "decoder", GRAPH, warm_up=1)
    costs = dict.fromkeys(BLOCKS["decoder"], Cost(0, 10))
    summary = summarise(GraphTimes("decoder", operators, (1e-3,), 4), costs, None)
    assert {(block.floor_ms, block.over_floor) for block in summary.blocks} == {(None, None)}


@given(st.lists(st.lists(st.integers(0, 10_000), min_size=6, max_size=6), min_size=1, max_size=4))
def test_no_time_is_lost(runs: list[list[int]]) -> None:
    found = read_trace(profile(*runs), "decoder", GRAPH, warm_up=0)
    for i, run in enumerate(runs):
        assert sum(o.seconds[i] for o in found) == pytest.approx(sum(run) * 1e-6)


@pytest.mark.parametrize("text", ["", "{}", "[1]", "[]", '[{"name": "model_run", "ts": 1, "dur": 5}]', '{"a": 1}'])
def test_what_is_no_profile_is_an_error(text: str) -> None:
    with pytest.raises(BackendError, match="the profile of ONNX Runtime"):
        read_trace(text, "decoder", GRAPH, warm_up=0)


def test_a_profile_that_ends_in_the_middle_is_an_error() -> None:
    events = json.loads(profile(RUNS[1], RUNS[2]))
    last = max(i for i, e in enumerate(events) if e["cat"] == "Node")
    del events[last]
    with pytest.raises(BackendError, match=r"2 runs with \[6, 5\] operators, expected the same operators in each"):
        read_trace(json.dumps(events), "decoder", GRAPH, warm_up=0)
