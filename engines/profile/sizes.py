"""The sizes of the tensors of an ONNX graph, and the multiply-accumulates that follow from them."""

from __future__ import annotations

import math
from typing import Any

from spd.errors import BackendError, BundleError
from spd.extras import pip_install

PRODUCTS = ("MatMul", "Gemm", "Conv", "ConvTranspose")


def import_onnx() -> Any:
    """The module `onnx`.

    Raises:
        BackendError: it is missing.
    """
    try:
        import onnx  # needed to profile, not to build engines
    except ImportError as error:
        raise BackendError(f"onnx is missing: {pip_install('profile')}") from error
    return onnx


class Sizes:
    """Shapes and bytes of the tensors of one graph, for B images and K points each."""

    def __init__(self, graph: Any, file: str, points: int = 0, batch: int = 1) -> None:
        """Read what the graph says.

        Args:
            graph: an `onnx.GraphProto`.
            file: where it is from, for messages.
            points: K.
            batch: B.
        """
        self._file, self._known = file, {"B": batch, "K": points}
        self._weights = {weights.name: weights for weights in graph.initializer}
        values = (*graph.value_info, *graph.input, *graph.output)
        self._values = {value.name: value.type.tensor_type for value in values}

    def shape(self, name: str) -> list[int]:
        """The shape of a tensor.

        Raises:
            BundleError: the graph does not say it, or a dimension is neither a number nor made of B and K.
        """
        if name in self._weights:
            return list(self._weights[name].dims)
        if name not in self._values:
            raise BundleError(f"{self._file} does not say the shape of {name}; export the bundle again")
        return [self._size(name, dim) for dim in self._values[name].shape.dim]

    def nbytes(self, name: str) -> int:
        """Bytes of a tensor.

        Raises:
            BundleError: as for `shape`.
        """
        shape = self.shape(name)
        dtype = self._weights[name].data_type if name in self._weights else self._values[name].elem_type
        itemsize: int = import_onnx().helper.tensor_dtype_to_np_dtype(dtype).itemsize
        return math.prod(shape) * itemsize

    def weights_nbytes(self) -> dict[str, int]:
        """Bytes of all weights by name."""
        return {name: self.nbytes(name) for name in self._weights}

    def macs(self, node: Any) -> int:
        """Multiply-accumulates of an `onnx.NodeProto`: of a matrix product or a convolution, else 0.

        Raises:
            BundleError: as for `shape`.
        """
        if node.op_type not in PRODUCTS:
            return 0
        left, right = (self.shape(name) for name in node.input[:2])
        if node.op_type == "ConvTranspose":
            # Of whole strides, as Depth Anything's two are: each input meets each weight of its channel once.
            return math.prod(left) * math.prod(right[1:])
        if node.op_type == "Conv":
            inner = math.prod(right[1:])  # channels of the group x kernel
        else:
            transposed = node.op_type == "Gemm" and any(a.name == "transA" and a.i for a in node.attribute)
            inner = left[0 if transposed else -1]
        return math.prod(self.shape(node.output[0])) * inner

    def _size(self, name: str, dim: Any) -> int:
        """A dimension such as 96, B, or 572*B."""
        if not dim.dim_param:
            return int(dim.dim_value)
        factors = dim.dim_param.split("*")
        if not all(factor.isdecimal() or factor in self._known for factor in factors):
            raise BundleError(
                f"{self._file}: {name} has the dimension {dim.dim_param!r}, which is not made of B and K; export the "
                "bundle again"
            )
        return math.prod(self._known[factor] if factor in self._known else int(factor) for factor in factors)
