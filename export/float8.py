"""Q/DQ pairs of float8 (e4m3) in place of those of int8: the same tensors with the same ranges.

Float8 is a floating format: what is small keeps 4 significant bits down to a 30,000th of the range, where int8 keeps
none below a 250th.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

FLOAT8 = onnx.helper.tensor_dtype_to_np_dtype(onnx.TensorProto.FLOAT8E4M3FN)

LARGEST = 448.0
"""The largest number in float8 e4m3, which has no infinity: what is larger becomes NaN."""

LEAST_SCALE = 2.0**-14
"""The least normal number in float16, in which the scales are."""


def replace_int8(model: onnx.ModelProto, exact: onnx.ModelProto) -> None:
    """Replace all int8 pairs of a graph, in place.

    Args:
        model: a graph by ONNX Runtime's quantiser, with signed activations and weights for each channel.
        exact: the same graph before it was quantised.
    """
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in exact.graph.initializer}
    replaced: dict[str, NDArray[Any]] = {}
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        source, scale, zero = node.input
        if node.op_type == "DequantizeLinear" and source in held:
            # The quantiser's name for a weight is the weight's own and this ending.
            weight: NDArray[np.float32] = weights[source.removesuffix("_quantized")].astype(np.float32)
            replaced[scale] = _scale(np.abs(weight).max(axis=0))
            replaced[source] = (weight / replaced[scale]).clip(-LARGEST, LARGEST).astype(FLOAT8)
        else:
            replaced[scale] = _scale(numpy_helper.to_array(held[scale]).astype(np.float32) * 127)
        replaced[zero] = np.zeros(tuple(held[zero].dims), FLOAT8)
    for name, array in replaced.items():
        held[name].CopyFrom(numpy_helper.from_array(array, name))


def _scale(largest: NDArray[np.float32]) -> NDArray[np.float16]:
    """The scale with which the largest magnitude becomes float8's."""
    return np.maximum(largest / LARGEST, LEAST_SCALE).astype(np.float16)
