"""Whether a graph has the inputs and outputs that the contract says."""

from __future__ import annotations

import onnx_ir as ir

from spd.bundle.contract import TensorSpec


def interface_fault(
    model: ir.Model, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], dtype: str
) -> str | None:
    """The first difference between a graph and the contract in names, dtypes and shapes, or None.

    Args:
        model: the graph.
        inputs: what it shall read.
        outputs: what it shall write.
        dtype: what "graph" stands for, such as float32.
    """
    for what, specs, values in (("inputs", inputs, model.graph.inputs), ("outputs", outputs, model.graph.outputs)):
        names, expected = [value.name for value in values], [spec.name for spec in specs]
        if names != expected:
            return f"its {what} are {', '.join(map(str, names))}, expected {', '.join(expected)}"
        for spec, value in zip(specs, values, strict=True):
            wanted = dtype if spec.dtype == "graph" else spec.dtype
            got = "of no type" if value.dtype is None else str(value.dtype.numpy())
            shape = [dim if isinstance(dim, int) else str(dim) for dim in value.shape or ()]
            if got != wanted or shape != list(spec.shape):
                return f"{spec.name} is {got} {_listed(shape)}, expected {wanted} {_listed(spec.shape)}"
    return None


def _listed(shape: list[int | str] | tuple[int | str, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"
