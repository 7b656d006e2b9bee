"""Layer times of TensorRT, against the stand-in, which times nothing: the test says what its profiler reports."""

from __future__ import annotations

import io
import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from runtime.tensorrt_support import add_engines, nothing_left

from spd.bundle import open_bundle
from spd.commands.progress import Phases
from spd.errors import BackendError, InputError

BUCKETS = (4, 16)


def silent() -> Phases:
    return Phases(Console(file=io.StringIO()))


@pytest.fixture
def profiler(tensorrt_any: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let the stand-in report a millisecond for every layer of the profile at hand. Returns the names it reported."""
    context_type = sys.modules["tensorrt"].IExecutionContext
    monkeypatch.setitem(context_type.__annotations__, "profiler", "Any")
    execute, reported = context_type.execute_async_v3, []

    def execute_and_report(self: Any, stream_handle: int) -> bool:
        done: bool = execute(self, stream_handle)
        observer = getattr(self, "profiler", None)
        if observer is not None:
            assert observer._made
            kind = sys.modules["tensorrt"].LayerInformationFormat.JSON
            layers = json.loads(self.engine.create_engine_inspector().get_engine_information(kind))["Layers"]
            index = self.active_optimization_profile
            for name in dict.fromkeys(layer["Name"] for layer in layers):
                if name.endswith(f" [profile {index}]") if index else " [profile" not in name:
                    observer.report_layer_time(name, 1.0)
                    reported.append(name)
        return done

    monkeypatch.setattr(context_type, "execute_async_v3", execute_and_report)
    return reported


def test_every_layer_gets_its_block_and_its_times(bundle: Path, profiler: list[str], tensorrt_any: Any) -> None:
    add_engines(bundle, "fp32", BUCKETS)
    profile_run, times = import_module("engines.profile.run"), import_module("engines.profile.times")
    settings = times.Settings("tensorrt", "fp32", 5, 1)
    with nothing_left(tensorrt_any):
        report = profile_run.profile(bundle, settings, silent(), flops=1e12, bandwidth=1e11)
    encoder, decoder = report.times
    assert (encoder.points, decoder.points) == (0, 16), "5 points run in the bucket of 16"
    assert all(name.endswith("[profile 1]") for name in (o.name for o in decoder.operators))
    for graph in report.times:
        assert [o.seconds for o in graph.operators] == [(1e-3,)] * len(graph.operators)
        assert {o.name for o in graph.operators} <= set(profiler)
        other = [o for o in graph.operators if o.block == "other"]
        assert [o.kind for o in other] == ["shape_call"]
        assert len(graph.calls) == 1
    by_block = {block.block: block for block in report.graphs[0].blocks}
    assert by_block["stage 3"].ms == pytest.approx(by_block["stage 3"].operators)
    assert by_block["stage 3"].bytes_run is None
    assert sum(block.share for block in report.graphs[1].blocks) == pytest.approx(1)


def test_more_points_than_the_largest_bucket_takes(bundle: Path, profiler: list[str], tensorrt_any: Any) -> None:
    add_engines(bundle, "fp32", BUCKETS)
    profile_run, times = import_module("engines.profile.run"), import_module("engines.profile.times")
    settings = times.Settings("tensorrt", "fp32", 17, 1)
    with pytest.raises(InputError, match=r"K = 17 is in no bucket of the engines of .*, which end at 4, 16; take 1 to"):
        profile_run.profile(bundle, settings, silent(), flops=1e12, bandwidth=1e11)


def test_a_layer_of_several_blocks_belongs_to_the_one_with_the_arithmetic() -> None:
    inspector, module = import_module("engines.inspector"), import_module("engines.profile.tensorrt")
    blocks = {"b1/Concat": "B1", "b2/layers/0/MatMul": "B2", "b2/layers/0/Softmax": "B2", "b3a/layers/0/Add": "B3a"}
    fused = {
        "Name": "__myl_Fc_myl0_1",
        "LayerType": "kgen",
        "Metadata": "\x1f".join(f"[ONNX Layer: {node}]" for node in blocks),
    }
    text = json.dumps(
        {
            "Layers": [
                fused,
                {"Name": "TopK", "LayerType": "TopK", "Metadata": "[ONNX Layer: TopK]"},
                {"Name": "b5/Concat_2 + b5/Add", "LayerType": "Concat", "Metadata": None},
                {"Name": "Reformatting CopyNode for Input Tensor 0 to /head/w_r1/MatMul", "LayerType": "Reformat"},
                {"Name": "shape_call", "LayerType": "shape_call"},
            ]
        }
    )
    layers = inspector.read_layers(text, "decoder.fp16.engine")
    nodes = {name: (block, 1000 if "MatMul" in name else 0) for name, block in blocks.items()} | {"TopK": ("TopK", 0)}
    found = [module.block_of_layer("decoder", layer, nodes) for layer in layers]
    assert found == ["B2", "TopK", "B5", "head", "other"]
    nodes = {name: (block, 0) for name, (block, _) in nodes.items()}
    assert module.block_of_layer("decoder", layers[0], nodes) == "B2", "the most nodes, where none multiplies"
    del nodes["b2/layers/0/Softmax"]
    assert module.block_of_layer("decoder", layers[0], nodes) == "B3a", "the last of several with as many"


@pytest.mark.parametrize("runs", [[{}, {}], [{"a": 1.0}, {"a": 1.0, "b": 1.0}]])
def test_runs_that_differ_are_an_error(runs: list[dict[str, float]]) -> None:
    layer_times = import_module("engines.profile.tensorrt").layer_times
    with pytest.raises(BackendError, match="expected the same in each"):
        layer_times(runs, {}, "decoder.fp16.engine")


def test_a_bundle_without_engines_is_refused(bundle: Path, tensorrt_11: Any) -> None:
    profile_run, times = import_module("engines.profile.run"), import_module("engines.profile.times")
    assert open_bundle(bundle).manifest.engines == ()
    with pytest.raises(BackendError, match=r"has no TensorRT engines; build them on this machine: spd-build"):
        profile_run.profile(bundle, times.Settings("tensorrt", "fp32", 5, 2), silent())
