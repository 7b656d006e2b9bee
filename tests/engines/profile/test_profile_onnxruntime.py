"""The profile of a decoder that runs in tiles of points, several at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.profile.cost import import_onnx
from engines.profile.onnxruntime import _times_per_call, profile_onnxruntime
from engines.profile.run import inputs
from engines.profile.times import OperatorTimes, Settings
from spd.bundle import open_bundle


def test_a_call_of_several_runs_shares_their_times_out() -> None:
    # Two calls of three runs each, two of which go at once.
    one = OperatorTimes("a/MatMul", "MatMul", "b2", (1.0, 2.0, 3.0, 10.0, 20.0, 30.0), bytes=7)
    merged = _times_per_call(one, runs=3, at_once=2)
    assert merged.seconds == (3.0, 30.0)
    assert merged.bytes == 21
    assert _times_per_call(one, runs=1, at_once=1) == one


@pytest.mark.parametrize("threads", [1, 2])
def test_the_decoder_is_profiled_as_the_backend_runs_it(exported: Path, threads: int) -> None:
    """100 points are one run on one thread, and tiles of 50 on two; the same bytes come in and go out."""
    bundle, count = open_bundle(exported), 100
    manifest = bundle.manifest
    settings = Settings("onnxruntime-cpu", "fp32", points=count, runs=3, threads=threads)
    _, decoder = profile_onnxruntime(bundle, settings, *inputs(manifest.height, manifest.width, count))
    assert {len(one.seconds) for one in decoder.operators} == {3}
    assert sum(one.median for one in decoder.operators) > 0
    (head,) = (one for one in decoder.operators if one.name.startswith("head") and one.kind == "Exp")
    assert head.bytes == 2 * 4 * count, "reads and writes a float32 for each point"
    nodes = import_onnx().load(str(bundle.graph("decoder", "fp32"))).graph.node
    assert {one.kind for one in decoder.operators if one.name in {node.name for node in nodes}} >= {"MatMul", "TopK"}
