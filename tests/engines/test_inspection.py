"""Reading the inspector: which layers take time, and in which type they compute."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.inspection import Inspection, check_precision, inspect_layers, island_paths
from engines.inspector import read_layers
from engines.layers import Tensor
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
        (layer("CaskGemmConvolution", "Half Half"), "convolution"),
        (layer("correlation", "Half Half"), "convolution"),
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
        '{"Layers": [{"LayerType": "gemm", "Inputs": [{"Dimensions": [Infinity]}]}]}',
        '{"Layers": [{"LayerType": "gemm", "Inputs": [{"Dimensions": "wide"}]}]}',
    ],
)
def test_an_engine_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(TensorRTError, match=r"gives no layers of decoder\.fp16\.engine \(.*spd-build keeps them"):
        read_layers(text, "decoder.fp16.engine")


REGION = layer("Myelin", "Half Half", "b1/MatMul", "b5/MatMul", name="{ForeignNode[b1/Cast...head/Exp]}")
RIGHT = layer("gemm", "Half Half", "b2/layers/0/w_q/MatMul")
UNTYPED = {**layer("gemm", "Half Half", "b2/layers/0/w_k/MatMul"), "Inputs": [], "Outputs": []}
NAMELESS = layer("gemm", "Float Float", name="sm90_xmma_gemm")
"""float32, and nothing says whether it is an island."""


@pytest.mark.parametrize(
    "found",
    [REGION, UNTYPED, NAMELESS, layer("kgen", "Half Half"), layer("kgen", "Half Half", name="__myl_TranEtc_myl0_3")],
)
def test_what_nothing_is_said_of_is_unknown(found: dict[str, Any]) -> None:
    inspection = inspect(found, RIGHT, RIGHT, RIGHT)
    assert [unknown.name for unknown in inspection.unknown] == [found["Name"]]
    assert inspection.wrong == ()
    assert inspection.share == pytest.approx(3 / 4), "unknown is not right"
    assert inspection.as_dict()["unknown"] == 1


@pytest.mark.parametrize(
    "found",
    [
        layer("kgen", "Half Half", name="__myl_TranMoveCast_myl0_3"),
        layer("kgen", "Half Half", name="__myl_Move_myl0_3 [profile 2]"),
        layer("kgen", "Half Half", name="__myl_MovSliSliTra_myl109_1"),
        layer("Reformat", "Float Float", name="Reformatting CopyNode for Output Tensor 0 to {ForeignNode[a...b]}"),
        layer("NoOp", "Float Float", name="Reformatting CopyNode for Input Tensor 1 to stages/0/Conv + stages/0/Add"),
        layer("Reformat", "Half Float"),
        layer("TopK", "Float Float"),
    ],
)
def test_what_only_moves_needs_no_nodes(found: dict[str, Any]) -> None:
    assert len(inspect(found, RIGHT).relevant) == 1


@pytest.mark.parametrize("dtypes", ["BFloat16 BFloat16", "TF32 TF32", "Int8 Half", "FP8 Half", "Int8 Int8"])
def test_another_type_is_wrong_even_without_nodes(dtypes: str) -> None:
    assert inspect(layer("gemm", dtypes, name="x"), RIGHT).verdict == "wrong"


def test_a_kernel_that_pads_an_operand_is_no_product() -> None:
    pads = layer("kgen", "Float Float", "b5/MatMul_2", "b5/Concat", name="__myl_MoveConc_myl0_7")
    assert inspect(pads, layer("gemm", "Half Half", "b5/MatMul_2")).relevant[0].type == "gemm"
    assert inspect(pads, layer("gemm", "Half Half", "b5/MatMul")).verdict == "wrong", "nothing else computes it"


def test_a_product_is_known_by_its_generated_name() -> None:
    (found,) = inspect(layer("kgen", "Half Half", name="__myl_FcAddCast_myl0_3")).right
    assert found.kind == "matrix product"


def test_bytes_of_an_image_are_no_quantised_operand() -> None:
    assert inspect(layer("CaskConvolution", "UInt8 Half", "stem/0/Conv")).verdict == "proven"


@pytest.mark.parametrize("tactic", ["sm80_xmma_gemm_f32f32_tf32f32_f32_tn_n", "cutlass_tensorop_TF32_gemm"])
def test_tf32_is_not_float32(tactic: str) -> None:
    product = {**layer("gemm", "Float Float", "b2/layers/0/w_q/MatMul"), "TacticName": tactic}
    inspection = inspect(product, precision="fp32")
    assert inspection.wrong[0].dtypes == {"tf32"}
    with pytest.raises(ExportError, match=r"the fp32 engine is not float32: 1 of 1 .*in tf32"):
        check_precision(inspection, "engine", "report")
    island = {**product, "Metadata": "[ONNX Layer: head/w_r2/MatMul]"}
    assert inspect({**island, "TacticName": "sgemm"}).wrong == ()
    assert len(inspect(island).wrong) == 1, "an island is float32 itself"


@pytest.mark.parametrize(
    ("layers", "verdict"),
    [
        ([REGION], "unproven"),
        ([REGION, *[RIGHT] * 9], "unproven"),  # it may hold anything
        ([UNTYPED, RIGHT], "proven"),
        ([UNTYPED, UNTYPED, RIGHT], "unproven"),
        ([UNTYPED, UNTYPED, layer("gemm", "BFloat16 BFloat16", "b2/MatMul")], "wrong"),
        ([layer("gemm", "Float Float", "head/w_r2/MatMul")], "unproven"),  # an island and nothing else
        ([layer("Reformat", "Half Half")], "unproven"),
    ],
)
def test_verdicts(layers: list[dict[str, Any]], verdict: str) -> None:
    inspection = inspect(*layers)
    assert inspection.verdict == inspection.as_dict()["verdict"] == verdict
    assert inspection.share == len(inspection.right) / (len(inspection.relevant) or 1)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ([REGION], r"TensorRT does not say what 1 of 1 of its layers compute.*such as {ForeignNode.*} \(Myelin\)"),
        (
            [UNTYPED, NAMELESS, RIGHT],
            r"TensorRT does not say what 2 of 3 .*\(matrix product in no stated type\), sm90_xmma_gemm",
        ),
        ([layer("Reformat", "Half Half")], r"none of its layers is known to be a matrix product"),
    ],
)
def test_an_unproven_engine_is_refused_or_reported(found: list[dict[str, Any]], said: str) -> None:
    inspection = inspect(*found)
    expected = rf"^nothing shows that the fp16 engine computes in float16: {said}"
    with pytest.raises(ExportError, match=rf"{expected}.*; no engine was written; --inspection report accepts"):
        check_precision(inspection, "engine")
    line = check_precision(inspection, "engine", "report")
    assert line is not None
    assert re.match(expected, line)
    assert "\n" not in line


def test_of_a_proven_engine_nothing_is_said() -> None:
    assert check_precision(inspect(RIGHT), "engine", "require") is None


LAYERS = st.builds(
    lambda kind, types, nodes, name: layer(kind, " ".join(types), *nodes, name=name),
    st.sampled_from(["gemm", "kgen", "CaskConvolution", "Myelin", "TopK", "Reformat", "shape_call"]),
    st.tuples(*[st.sampled_from(["Half", "Float", "BFloat16", "Int64", "Int8", "none"])] * 2),
    st.lists(st.sampled_from(["b1/MatMul", "stem/0/Conv", "head/w_r2/MatMul", "b1/Add"]), max_size=3),
    st.sampled_from(["__myl_Fc_myl0_1", "__myl_Tran_myl0_2", "stem/0/Conv", "x"]),
)


@given(st.lists(LAYERS, min_size=1, max_size=12), st.sampled_from(["fp32", "fp16", "bf16"]))
def test_every_relevant_layer_has_one_verdict(layers: list[dict[str, Any]], precision: str) -> None:
    inspection = inspect(*layers, precision=precision)
    groups = (inspection.right, inspection.islands, inspection.wrong, inspection.unknown)
    assert Counter(id(x) for group in groups for x in group) == Counter(id(x) for x in inspection.relevant)
    assert (inspection.verdict == "wrong") == bool(inspection.wrong)
    assert all("Int8" not in [t.dtype for t in (*x.inputs, *x.outputs)] for x in inspection.right)
    if inspection.verdict == "proven":
        assert len(inspection.unknown) <= len(inspection.relevant) / 2


KEYS = ["Layers", "Name", "LayerType", "Inputs", "Outputs", "Weights", "Dimensions", "Format/Datatype", "Metadata"]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["Half", "kgen", "[ONNX Layer: a]"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=20,
)


@given(st.lists(st.dictionaries(st.sampled_from(KEYS), VALUES), max_size=3) | VALUES)
def test_whatever_the_inspector_says_is_read_or_refused(layers: Any) -> None:
    try:
        found = read_layers(json.dumps({"Layers": layers}), "x.engine")
    except TensorRTError:
        return
    assert len(found) == len(layers)
    assert inspect_layers(found, "fp16", ()).verdict in ("proven", "unproven", "wrong")


def test_what_a_layer_is() -> None:
    found = layer("kgen", "Half Float", "b1/Gather", "b1/MatMul", name="__myl_a")
    found["Weights"] = {"Type": "BFloat16", "Count": 3}
    (read,) = read_layers(json.dumps({"Layers": [found]}), "x.engine")
    assert (read.name, read.type, read.kind, read.tactic) == ("__myl_a", "kgen", "matrix product", "sm90_xmma")
    assert read.nodes == ("b1/Gather", "b1/MatMul")
    assert read.dtypes == {"fp16", "fp32", "bf16"}
    assert read.inputs == (Tensor("in", (1, 8), "Half"),)
    assert [tensor.nbytes for tensor in (*read.inputs, *read.outputs)] == [16, 32]


def test_types_in_the_form_of_tensorrt_11() -> None:
    found = {"Name": "a", "LayerType": "gemm", "Inputs": [{"Name": "x", "DataType": "FP8"}, {"Datatype": "Bool"}]}
    (read,) = read_layers(json.dumps({"Layers": [found]}), "x.engine")
    assert read.inputs == (Tensor("x", (), "FP8"), Tensor("", (), "Bool"))


@pytest.mark.parametrize(
    ("dtypes", "verdict"),
    [("Int8 Half", "proven"), ("Int8 Float", "proven"), ("Half Half", "proven"), ("Float Float", "wrong")],
)
def test_8_bit_plans_have_8_or_16_bits_in_their_products(dtypes: str, verdict: str) -> None:
    assert inspect(layer("gemm", dtypes, "b2/layers/0/w_q/MatMul"), precision="int8-fp16").verdict == verdict
