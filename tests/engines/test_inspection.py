"""Reading the inspector: which layers take time, and in which type they compute."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engines.inspection import Inspection, check_precision, inspect_layers, island_paths
from engines.inspector import read_layers
from spd.config import PRESETS
from spd.errors import ExportError, TensorRTError

ISLANDS = island_paths("decoder", PRESETS["atto"])


def layer(kind: str, dtypes: str, *nodes: str, name: str | None = None) -> dict[str, Any]:
    """A layer in the form of TensorRT 10 and 11: `dtypes` is input and output, such as "Half Float"."""
    first, last = dtypes.split()
    return {
        "Name": name or f"__myl_{kind}_myl0_3",
        "LayerType": kind,
        "Inputs": [{"Name": "in", "Dimensions": [1, 8], "Format/Datatype": first}],
        "Outputs": [{"Name": "out", "Dimensions": [1, 8], "Format/Datatype": last}],
        "TacticName": "sm90_xmma",
        "StreamId": 0,
        "Metadata": "\x1f".join(f"[ONNX Layer: {node}]" for node in nodes),
    }


def inspect(*layers: dict[str, Any], precision: str = "fp16") -> Inspection:
    # A raw control character, as TensorRT writes it; strict JSON refuses it.
    text = json.dumps({"Layers": layers, "Bindings": []}).replace("\\u001f", "\x1f")
    return inspect_layers(read_layers(text, "x.engine"), precision, ISLANDS)


@pytest.mark.parametrize(
    ("found", "kind"),
    [
        (layer("gemm", "Half Half", "b2/layers/0/w_q/MatMul"), "matrix product"),
        (layer("CaskGemmMatrixMultiply", "FP16 FP16"), "matrix product"),
        (layer("MatrixMultiply", "Half Half"), "matrix product"),
        (layer("kgen", "Half Half", "b1/windows/0/MatMul_2", "b1/windows/0/Reshape_4"), "matrix product"),
        (layer("CaskConvolution", "Half Half", "stem/0/Conv"), "convolution"),
        (layer("kgen", "Half Half", name="_gemm_mha_v2_myl0_4"), "attention"),
        (layer("kgen", "Half Half", "a/MatMul", "a/Softmax", "a/MatMul_2"), "attention"),
    ],
)
def test_layers_that_take_time(found: dict[str, Any], kind: str) -> None:
    inspection = inspect(found)
    assert [relevant.kind for relevant in inspection.relevant] == [kind]
    assert (inspection.wrong, inspection.share) == ((), 1.0)


@pytest.mark.parametrize(
    "found",
    [
        layer("Reformat", "Float Half", "stem/0/Conv"),
        layer("kgen", "Float Float", "b1/LayerNormalization", "b1/windows/0/Clip"),
        layer("Constant", "Float Float", "b2/layers/0/w_q/MatMul"),
        layer("TopK", "Float Float", "TopK"),
    ],
)
def test_other_layers_may_be_float32(found: dict[str, Any]) -> None:
    inspection = inspect(found, layer("gemm", "Half Half"))
    assert len(inspection.relevant) == 1
    assert inspection.wrong == ()
    assert sum(inspection.types.values()) == 2


@pytest.mark.parametrize(
    ("precision", "dtypes", "right"),
    [
        ("fp16", "Half Half", True),
        ("fp16", "Half Float", True),  # a cast behind the product is fused
        ("fp16", "Float Half", True),  # or one in front of it
        ("fp16", "Float Float", False),
        ("fp16", "BFloat16 BFloat16", False),
        ("bf16", "BFloat16 Float", True),
        ("bf16", "Half Half", False),
        ("bf16", "Float Float", False),
        ("fp32", "Float Float", True),
        ("fp32", "Half Float", False),
    ],
)
def test_precision_of_a_product(precision: str, dtypes: str, right: bool) -> None:
    inspection = inspect(layer("gemm", dtypes, "b2/layers/0/w_q/MatMul"), precision=precision)
    assert (len(inspection.wrong) == 0) is right


@pytest.mark.parametrize("text", ["Row major linear FP16 format", "Two wide channel vectorized row major FP16 format"])
def test_the_older_names_of_types(text: str) -> None:
    found = layer("gemm", "Float Float")
    found["Inputs"][0]["Format/Datatype"] = text
    assert inspect(found).wrong == ()


def test_islands_are_told_apart_by_their_nodes() -> None:
    scores = layer("gemm", "Float Float", "b3b/layers/1/MatMul")
    head = layer("kgen", "Float Float", "head/w_r2/MatMul", "head/w_r2/Add", "Exp")
    product = layer("gemm", "Half Half", "b3b/layers/1/MatMul_2")
    inspection = inspect(scores, head, product)
    assert [island.nodes[0] for island in inspection.islands] == ["b3b/layers/1/MatMul", "head/w_r2/MatMul"]
    assert inspection.wrong == ()
    assert inspection.share == pytest.approx(1 / 3)
    assert inspection.as_dict()["time_relevant"]["matrix product"] == {"layers": 3, "in_precision": 1}


@pytest.mark.parametrize(
    "nodes",
    [
        ("b3b/layers/1/MatMul_2",),
        ("b3b/layers/0/MatMul",),
        ("head/w_r1/MatMul",),
        ("head/w_r20/MatMul",),
        ("b3b/layers/1/MatMul", "b3b/layers/1/w_o/MatMul"),
    ],
)
def test_a_neighbour_of_an_island_is_none(nodes: tuple[str, ...]) -> None:
    assert len(inspect(layer("gemm", "Float Float", *nodes)).wrong) == 1


def test_an_island_in_float16_is_wrong_in_bfloat16() -> None:
    assert len(inspect(layer("gemm", "Half Half", "head/w_r2/MatMul"), precision="bf16").wrong) == 1


def test_islands_are_found_by_the_layers_name_without_metadata() -> None:
    inspection = inspect(layer("gemm", "Float Float", name="head/w_r2/MatMul_myl0_12 [profile 1]"))
    assert (len(inspection.islands), inspection.wrong) == (1, ())


def test_a_policy_adds_islands_to_its_own_graph() -> None:
    text = json.dumps({"Layers": [layer("gemm", "Float Float", "stages/2/blocks/1/fc2/MatMul")]})

    def wrong(graph: str, *modules: str) -> int:
        islands = island_paths(graph, PRESETS["atto"], modules)
        return len(inspect_layers(read_layers(text, "x.engine"), "fp16", islands).wrong)

    assert wrong("encoder") == 1
    assert wrong("encoder", "encoder.stages.2.blocks.1.fc2") == 0
    assert wrong("encoder", "encoder.stages.2.blocks.1") == 0
    assert wrong("encoder", "encoder.stages.2.blocks.10", "decoder.stages.2.blocks.1.fc2") == 1
    assert wrong("decoder", "encoder.stages.2.blocks.1.fc2") == 1


def test_the_encoder_has_no_islands_of_its_own() -> None:
    assert island_paths("encoder", PRESETS["tiny"]) == ()


def test_a_silently_float32_engine_is_refused() -> None:
    inspection = inspect(*(layer("gemm", "Float Float", f"b2/layers/{i}/w_q/MatMul") for i in range(5)))
    with pytest.raises(ExportError, match=r"the fp16 engine is not float16: 5 of 5 matrix products.*in fp32"):
        check_precision(inspection, "engine")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"Layers": []}',
        '{"Layers": null}',
        '{"Layers": ["stem/0/Conv"]}',
        '{"Layers": [{"Name": "a"}]}',
    ],
)
def test_an_engine_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(TensorRTError, match=r"gives no layers of decoder\.fp16\.engine \(.*spd-build keeps them"):
        read_layers(text, "decoder.fp16.engine")


def test_an_engine_without_products_is_refused() -> None:
    with pytest.raises(ExportError, match="names no matrix product and no convolution among 1 layers"):
        inspect(layer("Reformat", "Half Half"))


def test_what_a_layer_is() -> None:
    found = layer("kgen", "Half Float", "b1/Gather", "b1/MatMul", name="__myl_a")
    found["Weights"] = {"Type": "BFloat16", "Count": 3}
    (read,) = read_layers(json.dumps({"Layers": [found]}), "x.engine")
    assert (read.name, read.type, read.kind) == ("__myl_a", "kgen", "matrix product")
    assert read.nodes == ("b1/Gather", "b1/MatMul")
    assert read.dtypes == {"fp16", "fp32", "bf16"}
