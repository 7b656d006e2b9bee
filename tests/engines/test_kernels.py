"""Reading the kernels from lines that TensorRT for RTX 1.7.1 wrote for graphs of `atto`, and from lines it did not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.inspection import inspect_layers, island_paths
from engines.kernels import Kernel, read_kernels, read_scratch
from engines.layers import BITS, Tensor
from spd.config import PRESETS
from spd.errors import TensorRTError

LOG = (Path(__file__).parent / "rtx_1.7.1.log.txt").read_text(encoding="utf-8")
KERNELS = {re.sub(r"_(U\d+_)?myl0_\d+$", "", kernel.name): kernel for kernel in read_kernels(LOG, "x.onnx")}

GEMM = next(line for line in LOG.splitlines() if "LayerType: gemm" in line)


def test_signals_and_waits_are_no_kernels() -> None:
    assert list(KERNELS) == [
        "stem/0/Conv",
        "__myl_TranCastMeanSubMulMeanAddSqrtDivMulCastMulAdd",
        "__myl_TranTran",
        "__myl_FcAddCastTanh",
        "_gemm_mha_v2",
        "__myl_ReshTranReshCast",
        "b3b/layers/1/MatMul",
        "__myl_Topk",
    ]
    assert LOG.count("\nName: ") == len(KERNELS) + 2


def test_one_kernel_in_full() -> None:
    assert KERNELS["__myl_Topk"] == Kernel(
        name="__myl_Topk_myl0_107",
        type="kgen",
        tactic="__myl_Topk_0xee82414bc7e74ac321a5e37accd94666",
        nodes=("TopK",),
        inputs=(Tensor("__myln_k_arg__bb1_124_myl0", (1, 256, 30), "Float"),),
        constants=(),
        outputs=(Tensor("TopK.1_myl0", (1, 256, 20), "Float"), Tensor("routes", (1, 256, 20), "Int64")),
    )


@pytest.mark.parametrize(
    ("name", "nbytes"),
    [
        ("stem/0/Conv", 2 * 4 * 160 * 192 + 2 * 40 * 4 * 4 * 4 + 4 + 4 + 2 * 40 + 2 * 40 * 40 * 48),
        ("__myl_TranTran", 3 * 2 * 80 * 20 * 24),
        ("__myl_FcAddCastTanh", 2 * 256 * 32 + 2 * 16 + 2 * 32 * 16 + 4 * 256 * 16),
        ("__myl_Topk", 4 * 256 * 30 + (4 + 8) * 256 * 20),
    ],
)
def test_bytes_by_hand(name: str, nbytes: int) -> None:
    assert KERNELS[name].nbytes == nbytes


def test_a_tensor_that_is_listed_twice_counts_twice() -> None:
    listed = re.search(r"Inputs: \[( \{.*?\})(?=, \{)", GEMM)
    assert listed is not None
    (twice,) = read_kernels(GEMM.replace(listed[1], f"{listed[1]},{listed[1]}"), "x.onnx")
    assert twice.nbytes - KERNELS["b3b/layers/1/MatMul"].nbytes == 4 * 3 * 256 * 32


def test_what_only_moves() -> None:
    assert [name for name, kernel in KERNELS.items() if kernel.only_moves] == [
        "__myl_TranTran",
        "__myl_ReshTranReshCast",
    ]


@pytest.mark.parametrize(
    ("name", "moves"),
    [
        ("__myl_Move_myl0_18", True),
        ("__myl_ReshSlicReshTranSlicConcConc_myl0_9", True),
        ("__myl_ReplReplConcReplReplConc_myl12_1", True),
        ("__myl_TranAdd_myl0_1", False),
        ("__myl_CastGath_myl0_1", False),
        ("__myl_ReshTranReshEtc_myl0_1", False),
        ("b2/layers/0/Transpose_U1_myl0_1", False),
        ("_gemm_mha_v2_myl0_1", False),
    ],
)
def test_names_that_tell_what_only_moves(name: str, moves: bool) -> None:
    (kernel,) = read_kernels(GEMM.replace("b3b/layers/1/MatMul_U272_myl0_91,", f"{name},"), "x.onnx")
    assert (kernel.name, kernel.only_moves) == (name, moves)


def test_precision_is_judged_as_from_the_inspector() -> None:
    inspection = inspect_layers(tuple(KERNELS.values()), "fp16", island_paths("decoder", PRESETS["atto"]))
    assert [layer.kind for layer in inspection.relevant] == [
        "convolution",
        "matrix product",
        "attention",
        "matrix product",
    ]
    assert [layer.nodes for layer in inspection.islands] == [("b3b/layers/1/MatMul",)]
    assert inspection.wrong == ()
    assert len(inspect_layers(tuple(KERNELS.values()), "bf16", ()).wrong) == 4


def test_scratch() -> None:
    assert read_scratch(LOG, "x.onnx") == (25_541_120,)
    with pytest.raises(TensorRTError, match=r"the scratch memory of x\.onnx"):
        read_scratch(LOG.replace("Max Scratch", "Scratch"), "x.onnx")


@pytest.mark.parametrize("log", ["", "Layers:\n\nI/O Tensors:\n", " Name: image, IOMode: Input", "[V] " + GEMM])
def test_a_log_without_kernels_is_refused(log: str) -> None:
    with pytest.raises(TensorRTError, match=r"lists no kernels of x\.onnx"):
        read_kernels(log, "x.onnx")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("LayerType: gemm", "LayerType: "),
        (", TacticName: __myelin_CASK_STUB", ""),
        ("StreamId: 0", "Stream: 0"),
        ("Datatype: Float", "Datatype: Float6"),
        ("Dimensions: [3,32,30]", "Dimensions: [3,32,x]"),
        ("Dimensions: [3,32,30], ", ""),
        (" }, { Name: __mye88384_117", " }{ Name: __mye88384_117"),
        (" }], Outputs", " }, other], Outputs"),
        ("Metadata: [ONNX", "Nodes: [ONNX"),
    ],
)
def test_a_line_of_another_form_is_named(old: str, new: str) -> None:
    assert old in GEMM
    with pytest.raises(TensorRTError, match=r"a kernel of x\.onnx in another form.*'Name: b3b/layers/1/MatMul_U272"):
        read_kernels(LOG.replace(GEMM, GEMM.replace(old, new)), "x.onnx")


SHAPES = st.lists(st.integers(0, 10_000), max_size=6)


@given(st.lists(st.tuples(SHAPES, st.sampled_from(sorted(BITS))), min_size=3, max_size=9), st.data())
def test_every_tensor_is_read_back(tensors: list[tuple[list[int], str]], data: st.DataObject) -> None:
    texts = [
        f" {{ Name: t{i}, Dimensions: [{','.join(map(str, shape))}], Strides: [], StrideOrder: [], Datatype: {dtype}, "
        "Format: (Arbitrary) Format with stride order = [1,0] }"
        for i, (shape, dtype) in enumerate(tensors)
    ]
    cut = sorted(data.draw(st.tuples(*[st.integers(0, len(texts))] * 2)))
    lists = [",".join(part) for part in (texts[: cut[0]], texts[cut[0] : cut[1]], texts[cut[1] :])]
    line = (
        "Name: a, LayerType: kgen, Inputs: [{}], Constants: [{}], Outputs: [{}], TacticName: , StreamId: 0, Metadata: "
    )
    (kernel,) = read_kernels(line.format(*lists), "x.onnx")
    found = [kernel.inputs, kernel.constants, kernel.outputs]
    assert [len(part) for part in found] == [cut[0], cut[1] - cut[0], len(texts) - cut[1]]
    assert [(list(t.shape), t.dtype) for part in found for t in part] == tensors
