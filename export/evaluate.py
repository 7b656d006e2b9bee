"""Runs an ONNX graph node by node in torch, every tensor in the dtype that the graph gives it.

ONNX Runtime's CPU provider computes most float16 nodes in float32 and has no bfloat16; a GPU rounds after every node.
This does too, and it can show every tensor on the way: it is how the parity gate sees overflow, NaN, and where a result
went off. Matrix products and convolutions multiply in float32 and round once, as tensor cores do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import onnx_ir as ir
import torch
import torch.nn.functional as F
from torch import Tensor

Observer = Callable[[ir.Node, tuple[Tensor, ...]], None]


def evaluate(model: ir.Model, inputs: Mapping[str, Tensor], observe: Observer | None = None) -> dict[str, Tensor]:
    """Run a graph.

    Args:
        model: graph of operators from `export.operators`, with any opset that has them.
        inputs: a tensor for each graph input.
        observe: called with every node and its outputs, in order.

    Returns:
        The graph's outputs by name.
    """
    graph = model.graph
    values: dict[ir.Value, Tensor] = {value: inputs[str(value.name)] for value in graph.inputs}
    for initializer in graph.initializers.values():
        assert initializer.const_value is not None
        values[initializer] = to_torch(initializer.const_value)
    uses = Counter(value for node in graph for value in node.inputs if value is not None)
    uses.update(graph.outputs)
    with torch.inference_mode():
        for node in graph:
            arguments = [None if value is None else values[value] for value in node.inputs]
            results = _run_node(node, arguments)
            values.update(zip(node.outputs, results, strict=True))
            if observe is not None:
                observe(node, results)
            for value in node.inputs:
                if value is not None:
                    uses[value] -= 1
                    if not uses[value]:
                        del values[value]
    return {str(value.name): values[value] for value in graph.outputs}


def to_torch(array: Any) -> Tensor:
    """A constant of the graph as a tensor; bfloat16, which numpy does not have, goes by its bits."""
    if array.dtype == ir.DataType.BFLOAT16:
        return torch.from_numpy(array.numpy().view("int16").copy()).view(torch.bfloat16)
    return torch.from_numpy(array.numpy().copy())


def _run_node(node: ir.Node, arguments: list[Any]) -> tuple[Tensor, ...]:
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    if node.op_type == "Split":
        return tuple(_split(*arguments, **attributes))
    if node.op_type == "TopK":
        return tuple(_topk(*arguments, **attributes))
    result = _OPERATORS[node.op_type](*arguments, **attributes)
    return (result,)


def _in_float32(operation: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Multiply in float32, round the result once to the type of the operands."""

    def run(*operands: Any, **attributes: Any) -> Tensor:
        dtype = operands[0].dtype
        wide = (x if x is None or x.dtype == torch.float64 else x.float() for x in operands)
        return operation(*wide, **attributes).to(dtype)

    return run


def _conv(
    x: Tensor, w: Tensor, b: Tensor | None = None, *, strides: Any, pads: Any, dilations: Any, group: int, **_: Any
) -> Tensor:
    assert list(pads[:2]) == list(pads[2:])
    return F.conv2d(x, w, b, list(strides), list(pads[:2]), list(dilations), group)


def _gemm(a: Tensor, b: Tensor, c: Tensor | None = None, **attributes: Any) -> Tensor:
    a = a.T if attributes.get("transA") else a
    b = b.T if attributes.get("transB") else b
    product = attributes.get("alpha", 1.0) * (a @ b)
    return product if c is None else product + attributes.get("beta", 1.0) * c


def _layer_norm(
    x: Tensor, scale: Tensor, bias: Tensor | None = None, *, epsilon: float, axis: int = -1, **_: Any
) -> Tensor:
    assert axis in (-1, x.ndim - 1)
    return F.layer_norm(x, x.shape[-1:], scale, bias, epsilon)


def _reshape(x: Tensor, shape: Tensor, allowzero: int = 0) -> Tensor:
    sizes = shape.tolist()
    return x.reshape([x.shape[i] if size == 0 and not allowzero else size for i, size in enumerate(sizes)])


def _slice(x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor, steps: Tensor | None = None) -> Tensor:
    index = [slice(None)] * x.ndim
    for i, (axis, start, end) in enumerate(zip(axes.tolist(), starts.tolist(), ends.tolist(), strict=True)):
        index[axis] = slice(start, end, None if steps is None else steps.tolist()[i])
    return x[tuple(index)]


def _pad(
    x: Tensor, pads: Tensor, value: Tensor | None = None, axes: Tensor | None = None, *, mode: str = "constant"
) -> Tensor:
    assert mode == "constant"
    amounts = pads.tolist()
    count = len(amounts) // 2
    full = [0] * (2 * x.ndim)  # torch lists (before, after) pairs from the last axis to the first
    for i, axis in enumerate(range(x.ndim) if axes is None else axes.tolist()):
        last = x.ndim - 1 - axis % x.ndim
        full[2 * last : 2 * last + 2] = [amounts[i], amounts[count + i]]
    return F.pad(x, full, value=0.0 if value is None else value.item())


def _gather(x: Tensor, index: Tensor, axis: int = 0) -> Tensor:
    taken = x.index_select(axis, index.flatten())
    return taken.unflatten(axis, index.shape) if index.ndim else taken.squeeze(axis)


def _unsqueeze(x: Tensor, axes: Tensor) -> Tensor:
    rank = x.ndim + axes.numel()
    for axis in sorted(axis % rank for axis in axes.tolist()):
        x = x.unsqueeze(axis)
    return x


def _reduce_mean(x: Tensor, axes: Tensor, keepdims: int = 1, **_: Any) -> Tensor:
    return x.mean(dim=axes.tolist(), keepdim=bool(keepdims))


def _reduce_sum(x: Tensor, axes: Tensor, keepdims: int = 1, **_: Any) -> Tensor:
    return x.sum(dim=axes.tolist(), keepdim=bool(keepdims))


def _split(x: Tensor, sizes: Tensor | None = None, *, axis: int = 0, num_outputs: int = 1) -> Any:
    return x.chunk(num_outputs, axis) if sizes is None else x.split(sizes.tolist(), axis)


def _topk(x: Tensor, count: Tensor, *, axis: int = -1, largest: int = 1, sorted: int = 1) -> Any:  # noqa: A002
    return x.topk(int(count.item()), axis, bool(largest), bool(sorted))


def _shape(x: Tensor, start: int = 0, end: int | None = None) -> Tensor:
    return torch.tensor(x.shape[start:end])


_OPERATORS: dict[str, Callable[..., Tensor]] = {
    "Add": torch.add,
    "Cast": lambda x, to, **_: x.to(getattr(torch, str(ir.DataType(to).numpy()))),
    "Concat": lambda *parts, axis: torch.cat(parts, axis),
    "Conv": _in_float32(_conv),
    "Cos": torch.cos,
    "Div": lambda a, b: a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc"),
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Expand": lambda x, shape: x.broadcast_to(torch.broadcast_shapes(x.shape, tuple(shape.tolist()))),
    "Floor": torch.floor,
    "Gather": _gather,
    "Gelu": lambda x, approximate="none": F.gelu(x, approximate=approximate),
    "Gemm": _in_float32(_gemm),
    "LayerNormalization": _layer_norm,
    "MatMul": _in_float32(torch.matmul),
    "Max": torch.maximum,
    "Min": torch.minimum,
    "Mul": torch.mul,
    "Pad": _pad,
    "Range": lambda start, limit, delta: torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype),
    "ReduceMean": _reduce_mean,
    "ReduceSum": _reduce_sum,
    "Reshape": _reshape,
    "Shape": _shape,
    "Sin": torch.sin,
    "Slice": _slice,
    "Softmax": lambda x, axis=-1: x.softmax(axis),
    "Sqrt": torch.sqrt,
    "Squeeze": lambda x, axes=None: x.squeeze() if axes is None else x.squeeze(tuple(axes.tolist())),
    "Sub": torch.sub,
    "Tanh": torch.tanh,
    "Transpose": lambda x, perm: x.permute(*perm),
    "Unsqueeze": _unsqueeze,
}
