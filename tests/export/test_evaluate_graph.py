"""The torch evaluator: every operator against onnx's reference, rounding, and whole graphs against ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from export_support import HEIGHT, WIDTH
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from export.evaluate import evaluate, to_torch
from export.operators import TENSORRT_OPERATORS
from spd.bundle.gate import check_points

OPSET = 20
ELEMENT = {
    np.dtype("float32"): TensorProto.FLOAT,
    np.dtype("int64"): TensorProto.INT64,
    np.dtype("uint8"): TensorProto.UINT8,
}
Array = NDArray[Any]


def floats(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def ints(*values: int) -> Array:
    return np.array(values, dtype=np.int64)


def scalar(value: int) -> Array:
    return np.array(value, dtype=np.int64)


@dataclass(frozen=True)
class Case:
    """One node: its operator, inputs (None where one is left out), attributes, and how many outputs it has."""

    op: str
    inputs: tuple[Array | None, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    outputs: int = 1


def single(case: Case) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """A model of one node. Its first input is the graph's, the others are constants, as in our graphs."""
    names = ["" if array is None else f"x{i}" for i, array in enumerate(case.inputs)]
    node = helper.make_node(case.op, names, [f"y{i}" for i in range(case.outputs)], name=case.op, **case.attributes)
    given_ = {name: array for name, array in zip(names, case.inputs, strict=True) if array is not None}
    first = names[0]
    value = helper.make_tensor_value_info(first, ELEMENT[given_[first].dtype], given_[first].shape)
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output]
    constants = [numpy_helper.from_array(array, name) for name, array in given_.items() if name != first]
    graph = helper.make_graph([node], "case", [value], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True), {first: given_[first]}


def ours(model: onnx.ModelProto, inputs: dict[str, Array]) -> list[Array]:
    tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
    return [tensor.numpy() for tensor in evaluate(ir.from_proto(model), tensors).values()]


def check(case: Case) -> None:
    model, inputs = single(case)
    want = ReferenceEvaluator(model).run(None, inputs)
    got = ours(model, inputs)
    assert len(got) == len(want) == case.outputs
    for a, b in zip(got, want, strict=True):
        assert a.shape == np.shape(b)
        assert a.dtype == np.asarray(b).dtype
        np.testing.assert_allclose(a, b, rtol=2e-6, atol=2e-6)


X = floats(2, 3, 4)
CASES = [
    Case("Add", (X, floats(4, seed=1))),
    Case("Add", (ints(1, 2), ints(3, -4))),
    Case("Cast", (X * 100,), {"to": TensorProto.INT64}),
    Case("Cast", (np.array([0, 127, 255], dtype=np.uint8),), {"to": TensorProto.FLOAT}),
    Case("Cast", (ints(-1, 7),), {"to": TensorProto.FLOAT}),
    Case("Max", (X, np.float32(-0.5))),
    Case("Min", (X, X[:1])),
    Case("Concat", (X, floats(2, 1, 4, seed=1), X), {"axis": 1}),
    Case("Concat", (ints(1), ints(2, 3)), {"axis": 0}),
    Case("Conv", (floats(2, 4, 9, 9), floats(4, 1, 7, 7, seed=1), floats(4, seed=2)),
         {"group": 4, "pads": [3, 3, 3, 3], "strides": [1, 1], "dilations": [1, 1], "kernel_shape": [7, 7]}),
    Case("Conv", (floats(1, 3, 8, 12), floats(5, 3, 4, 4, seed=1)),
         {"group": 1, "pads": [0, 0, 0, 0], "strides": [4, 4], "dilations": [1, 1], "kernel_shape": [4, 4]}),
    Case("Cos", (X * 9,)),
    Case("Div", (X, floats(2, 3, 1, seed=1))),
    Case("Div", (ints(7, -7, 9), ints(2, 2, -4))),
    Case("Erf", (X,)),
    Case("Exp", (X,)),
    Case("Expand", (floats(3, 1), ints(2, 1, 4))),
    Case("Floor", (X * 5,)),
    Case("Gather", (X, ints(2, 0, 2)), {"axis": 1}),
    Case("Gather", (X, scalar(1)), {"axis": 2}),
    Case("Gather", (floats(5, 2), np.array([[0, 4], [3, 3]])), {"axis": 0}),
    Case("Gelu", (X * 3,)),
    Case("Gelu", (X * 3,), {"approximate": "tanh"}),
    Case("Gemm", (floats(3, 4), floats(4, 5, seed=1), floats(5, seed=2))),
    Case("Gemm", (floats(4, 3), floats(5, 4, seed=1)), {"transA": 1, "transB": 1, "alpha": 0.5}),
    Case("Gemm", (floats(3, 4), floats(5, 4, seed=1), floats(3, 1, seed=2)), {"transB": 1, "beta": -2.0}),
    Case("LayerNormalization", (X, floats(4, seed=1), floats(4, seed=2)), {"axis": -1, "epsilon": 1e-3}),
    Case("LayerNormalization", (X, floats(4, seed=1)), {"axis": 2, "epsilon": 1e-6}),
    Case("MatMul", (floats(2, 3, 4, 5), floats(3, 5, 2, seed=1))),
    Case("MatMul", (floats(2, 1, 4), floats(4, 3, seed=1))),
    Case("Mul", (X, floats(1, 3, 1, seed=1))),
    Case("Pad", (X, ints(0, 1, 2, 0, 0, 1))),
    Case("Pad", (X, ints(1, 2), np.float32(7), ints(-1))),
    Case("Pad", (X, ints(1, 0, 2, 3), None, ints(2, 0)), {"mode": "constant"}),
    Case("Range", (scalar(1), scalar(9), scalar(3))),
    Case("ReduceMean", (X, ints(1)), {"keepdims": 1}),
    Case("ReduceMean", (X, ints(0, -1)), {"keepdims": 0}),
    Case("ReduceSum", (X, ints(1)), {"keepdims": 1}),
    Case("ReduceSum", (X, ints(0, -1)), {"keepdims": 0}),
    Case("Reshape", (X, ints(0, -1, 2))),
    Case("Reshape", (X, ints(4, 6))),
    Case("Reshape", (floats(0, 3), ints(3, 0)), {"allowzero": 1}),
    Case("Shape", (X,)),
    Case("Shape", (X,), {"start": 1, "end": 2}),
    Case("Shape", (X,), {"start": -1}),
    Case("Sin", (X * 9,)),
    Case("Slice", (X, ints(1), ints(3), ints(1))),
    Case("Slice", (X, ints(-3, 0), ints(1 << 62, -1), ints(2, 1), ints(1, 2))),
    Case("Softmax", (X,), {"axis": 1}),
    Case("Softmax", (X,)),
    Case("Split", (X, ints(1, 3)), {"axis": 2}, outputs=2),
    Case("Split", (X,), {"axis": -1, "num_outputs": 2}, outputs=2),
    Case("Split", (floats(7, 2),), {"axis": 0, "num_outputs": 3}, outputs=3),
    Case("Sqrt", (np.abs(X),)),
    Case("Squeeze", (floats(1, 3, 1), ints(0, -1))),
    Case("Squeeze", (floats(1, 3, 1),)),
    Case("Sub", (X, floats(3, 1, seed=1))),
    Case("Tanh", (X * 2,)),
    Case("TopK", (floats(2, 3, 9), ints(4)), {"axis": -1}, outputs=2),
    Case("TopK", (floats(2, 9, 3), ints(2)), {"axis": 1, "largest": 0, "sorted": 1}, outputs=2),
    Case("Transpose", (X,), {"perm": [2, 0, 1]}),
    Case("Unsqueeze", (X, ints(0, 2))),
    Case("Unsqueeze", (X, ints(-1))),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.op)
def test_an_operator_is_onnxs(case: Case) -> None:
    check(case)


def test_every_operator_of_the_table_has_a_case() -> None:
    """Those of 8-bit graphs are run by ONNX Runtime only."""
    assert {case.op for case in CASES} == set(TENSORRT_OPERATORS) - {"DequantizeLinear", "QuantizeLinear"}


shapes = st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_pad_is_onnxs_for_any_axes(data: st.DataObject) -> None:
    shape = data.draw(shapes)
    axes = data.draw(st.lists(st.integers(0, len(shape) - 1), min_size=1, unique=True))
    signed = [axis - data.draw(st.sampled_from((0, len(shape)))) for axis in axes]
    amounts = data.draw(st.lists(st.integers(0, 3), min_size=2 * len(axes), max_size=2 * len(axes)))
    check(Case("Pad", (floats(*shape), ints(*amounts), np.float32(2), ints(*signed))))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_slice_is_onnxs_for_any_bounds(data: st.DataObject) -> None:
    shape = data.draw(shapes)
    axes = data.draw(st.lists(st.integers(0, len(shape) - 1), min_size=1, unique=True))
    bound = st.integers(-5, 5)
    starts, ends = ([data.draw(bound) for _ in axes] for _ in range(2))
    steps = [data.draw(st.integers(1, 3)) for _ in axes]
    check(Case("Slice", (floats(*shape), ints(*starts), ints(*ends), ints(*axes), ints(*steps))))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_gather_is_onnxs_for_any_index(data: st.DataObject) -> None:
    shape = data.draw(shapes)
    axis = data.draw(st.integers(0, len(shape) - 1))
    index_shape = data.draw(st.lists(st.integers(1, 3), max_size=3))
    count = int(np.prod(index_shape, dtype=int))
    index = data.draw(st.lists(st.integers(0, shape[axis] - 1), min_size=count, max_size=count))
    check(Case("Gather", (floats(*shape), ints(*index).reshape(index_shape)), {"axis": axis}))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_matmul_broadcasts_as_onnxs(data: st.DataObject) -> None:
    n, k, m = (data.draw(st.integers(1, 4)) for _ in range(3))
    lead = data.draw(st.lists(st.integers(1, 3), max_size=2))
    other = [data.draw(st.sampled_from((1, size))) for size in lead][data.draw(st.integers(0, len(lead))) :]
    check(Case("MatMul", (floats(*lead, n, k), floats(*other, k, m, seed=1))))


@pytest.mark.parametrize(
    ("number", "dtype"), [(TensorProto.FLOAT16, torch.float16), (TensorProto.BFLOAT16, torch.bfloat16)]
)
@pytest.mark.parametrize("op", ["MatMul", "Gemm"])
def test_half_precision_products_are_summed_in_float32_and_rounded_once(
    number: int, dtype: torch.dtype, op: str
) -> None:
    # 1 + 4096 * 2^-14: a running sum in half precision never leaves 1, since each term is below half its step.
    terms = 4096
    weight = torch.full((terms + 1, 1), 2.0**-14).to(dtype)
    weight[0] = 1
    graph = helper.make_graph(
        [helper.make_node(op, ["x", "w"], ["y"], name="product")],
        "half",
        [helper.make_tensor_value_info("x", number, [1, terms + 1])],
        [helper.make_tensor_value_info("y", number, [1, 1])],
        [helper.make_tensor("w", number, [terms + 1, 1], weight.view(torch.int16).numpy().tobytes(), raw=True)],
    )
    model = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)]))
    (result,) = evaluate(model, {"x": torch.ones(1, terms + 1, dtype=dtype)}).values()
    assert result.dtype == dtype
    assert float(result) == 1 + terms * 2.0**-14


@pytest.mark.parametrize(
    ("number", "dtype"), [(TensorProto.FLOAT16, torch.float16), (TensorProto.BFLOAT16, torch.bfloat16)]
)
def test_a_constant_in_half_precision_keeps_its_bits(number: int, dtype: torch.dtype) -> None:
    want = torch.tensor([1.5, -0.0, 3e-5, 1e4]).to(dtype)
    proto = helper.make_tensor("w", number, [4], want.view(torch.int16).numpy().tobytes(), raw=True)
    got = to_torch(ir.from_proto(proto))
    assert got.dtype == dtype
    assert torch.equal(got.view(torch.int16), want.view(torch.int16))


def test_nodes_are_observed_in_order_with_their_results() -> None:
    model, inputs = single(Case("Split", (X, ints(1, 3)), {"axis": 2}, outputs=2))
    seen: list[tuple[str, list[int]]] = []
    evaluate(
        ir.from_proto(model),
        {name: torch.from_numpy(array) for name, array in inputs.items()},
        lambda node, results: seen.append((str(node.name), [result.shape[2] for result in results])),
    )
    assert seen == [("Split", [1, 3])]


@pytest.mark.parametrize("graph", ["encoder", "decoder"])
def test_a_whole_float32_graph_is_onnx_runtimes(exported: Path, graph: str) -> None:
    path = exported / f"{graph}.fp32.onnx"
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(2)
    inputs: dict[str, Array] = {}
    for value in session.get_inputs():
        shape = [{"B": 2, "K": 24}.get(dim, dim) for dim in value.shape]
        inputs[value.name] = rng.normal(size=shape).astype(np.float32)
    if graph == "encoder":
        inputs["image"] = rng.integers(0, 256, (2, HEIGHT, WIDTH, 3), dtype=np.uint8)
    else:
        inputs["points"] = np.stack([check_points(HEIGHT, WIDTH, 24, seed) for seed in range(2)])
    want = dict(zip((output.name for output in session.get_outputs()), session.run(None, inputs), strict=True))
    got = evaluate(ir.load(path), {name: torch.from_numpy(array) for name, array in inputs.items()})
    assert list(got) == list(want)
    for name, array in want.items():
        tensor = got[name].numpy()
        assert (tensor.shape, tensor.dtype) == (array.shape, array.dtype)
        if name == "routes":
            tensor, array = np.sort(tensor, -1), np.sort(array, -1)  # noqa: PLW2901
        assert np.abs(tensor - array).max() <= 1e-5 * np.abs(array).max(), name
