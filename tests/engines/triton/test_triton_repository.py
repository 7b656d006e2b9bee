"""`spd-triton` writes a repository that Triton's own parser reads, and that says what the graphs say."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import onnx
import pytest
from click.testing import CliRunner

from engines.triton.cli import main
from engines.triton.configs import graph_config
from spd.bundle import open_bundle
from spd.bundle.plans import PlanProfile, PlanRecord, Target

PARSE = """
import json, sys
from google.protobuf import json_format, text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig
texts = [open(path).read() for path in sys.argv[1:]]
print(json.dumps([json_format.MessageToDict(text_format.Parse(text, ModelConfig())) for text in texts]))
"""
ONNX_TYPES = {
    "TYPE_INT64": onnx.TensorProto.INT64,
    "TYPE_UINT8": onnx.TensorProto.UINT8,
    "TYPE_FP32": onnx.TensorProto.FLOAT,
    "TYPE_FP16": onnx.TensorProto.FLOAT16,
    "TYPE_BF16": onnx.TensorProto.BFLOAT16,
}


def run(*arguments: object) -> Any:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def parsed(python: Path, *paths: Path) -> list[dict[str, Any]]:
    """Configurations, as tritonclient's ModelConfig reads them."""
    done = subprocess.run([python, "-c", PARSE, *paths], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("precision", [None, "fp16", "bf16"])
def test_configurations_say_what_the_graphs_say(
    exported: Path, tmp_path: Path, triton_python: Path, precision: str | None
) -> None:
    out = tmp_path / "models"
    done = run(exported, "--out", out, *([] if precision is None else ["--precision", precision]))
    assert done.exit_code == 0, done.output
    names = ["spd", "spd_once", "spd_encoder", "spd_decoder"]
    configs = parsed(triton_python, *(out / name / "config.pbtxt" for name in names))
    assert [config["name"] for config in configs] == names
    for config in configs[2:]:
        graph = onnx.load(out / config["name"] / "1" / "model.onnx").graph
        for kind, values in (("input", graph.input), ("output", graph.output)):
            assert [row["name"] for row in config[kind]] == [value.name for value in values]
            for row, value in zip(config[kind], values, strict=True):
                dims = value.type.tensor_type.shape.dim
                assert dims[0].dim_param == "B"
                assert [int(dim) for dim in row["dims"]] == [dim.dim_value or -1 for dim in dims[1:]]
                assert ONNX_TYPES[row["dataType"]] == value.type.tensor_type.elem_type
        assert config["maxBatchSize"] == open_bundle(exported).manifest.max_batch


def test_options_reach_the_model(exported: Path, tmp_path: Path, triton_python: Path) -> None:
    out = tmp_path / "models"
    options = ["--name", "room-1", "--backend", "onnxruntime-cpu", "--max-scenes", "7", "--idle", "5"]
    assert run(exported, "--out", out, *options, "--cache-budget", "64MiB").exit_code == 0
    scenes, once = parsed(triton_python, out / "room-1" / "config.pbtxt", out / "room-1_once" / "config.pbtxt")
    values = {key: value["stringValue"] for key, value in scenes["parameters"].items() if value}
    assert (values["backend"], values["max_scenes"], values["cache_budget"]) == ("onnxruntime-cpu", "7", "64MiB")
    assert scenes["sequenceBatching"]["maxSequenceIdleMicroseconds"] == "5000000"
    assert scenes["sequenceBatching"]["oldest"]["maxCandidateSequences"] == 7
    assert once["parameters"]["scenes"]["stringValue"] == "room-1"


def test_plans_of_tensorrt_keep_their_buckets(exported: Path, tmp_path: Path, triton_python: Path) -> None:
    manifest = open_bundle(exported).manifest
    target = Target("10.16.1.11", "13.0", "13.0", "NVIDIA H200", "9.0")
    profiles = tuple(PlanProfile((1, 1, 2), (edge, edge, edge)) for edge in (64, 256))
    plan = PlanRecord("decoder", "fp16", "decoder.fp16.engine", target, "none", profiles, {})
    (tmp_path / "config.pbtxt").write_text(graph_config("d", "decoder", "fp16", manifest, plan))
    (config,) = parsed(triton_python, tmp_path / "config.pbtxt")
    assert config["platform"] == "tensorrt_plan"
    assert config["maxBatchSize"] == 2
    assert config["instanceGroup"][0]["profile"] == ["0", "1"]
    assert "64 or 256" in (tmp_path / "config.pbtxt").read_text()


def test_a_repository_holds_all_that_it_needs(exported: Path, tmp_path: Path) -> None:
    out = tmp_path / "models"
    assert run(exported, "--out", out).exit_code == 0
    bundle = open_bundle(out / "spd" / "1" / "bundle")
    assert bundle.manifest == open_bundle(exported).manifest
    for name in bundle.manifest.files:
        bundle.file(name)  # which compares its sha256
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_models_are_replaced_only_when_asked(exported: Path, tmp_path: Path) -> None:
    out = tmp_path / "models"
    (out / "other").mkdir(parents=True)
    assert run(exported, "--out", out).exit_code == 0
    stale = out / "spd_encoder" / "1" / "stale"
    stale.touch()
    refused = run(exported, "--out", out)
    assert refused.exit_code == 1
    assert "--force" in refused.output
    assert stale.exists()
    assert run(exported, "--out", out, "--force").exit_code == 0
    assert not stale.exists()
    assert (out / "other").is_dir()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--name", "../up"], "is not a name"),
        (["--precision", "int8"], "export with --precision int8"),
        (["--cache-budget", "much"], "much"),
    ],
)
def test_what_cannot_be_is_refused(exported: Path, tmp_path: Path, arguments: list[str], said: str) -> None:
    done = run(exported, "--out", tmp_path / "models", *arguments)
    assert done.exit_code in (1, 2)
    assert said in done.output
    assert not list((tmp_path / "models").glob("*"))
