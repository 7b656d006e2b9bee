"""What a plan consists of: its layers, what each computes, and in which types.

There are two sources, TensorRT's inspector (`engines.inspector`) and the log of the builder of TensorRT for RTX
(`engines.kernels`). TensorRT gives generated kernels names of its own. The nodes that it lists for each layer are the
module paths that the export gives its nodes.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property

KINDS = ("matrix product", "convolution", "attention")
"""The layers that take the time."""

NARROW = frozenset({"int8", "int4", "fp8", "fp4"})
"""Types that products compute in only where the graph quantises."""

COPYING = frozenset({"Cast", "Conc", "Move", "Repl", "Resh", "Slic", "Tran", "Cas", "Mov", "Rep", "Res", "Sli", "Tra"})
"""Parts of a generated kernel's name that compute nothing: they cast, join, copy, repeat, reshape, cut or transpose.

Some versions cut them to three letters. Con may be Conc or Conv then.
"""

BITS = {
    "Float": 32, "TF32": 32, "Half": 16, "BFloat16": 16, "FP8": 8, "FP4": 4, "E8M0": 8,
    "Int64": 64, "Int32": 32, "Int8": 8, "UInt8": 8, "Int4": 4, "Bool": 8,
}  # fmt: skip
"""Bits of an element by TensorRT's word for its type."""

_PRECISIONS = {
    "Float": "fp32", "TF32": "tf32", "Half": "fp16", "BFloat16": "bf16",
    "FP8": "fp8", "FP4": "fp4", "Int8": "int8", "Int4": "int4",
}  # fmt: skip
_ONNX_NODE = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
_GENERATED_NAME = re.compile(r"__myl_((?:[A-Z][a-z0-9]*)+)_myl\d+_\d+(?: \[profile \d+\])?")
_GENERATED_TYPE = re.compile(r"kgen|fusion", re.IGNORECASE)
# A part of the graph that TensorRT's compiler holds as one and does not list kernel by kernel.
_REGION = re.compile(r"\{?(foreignnode|myelin)", re.IGNORECASE)
# Layers that move or hold data and compute nothing, whatever ONNX nodes they are listed with.
_MOVERS = re.compile(r"reformat|constant|noop|no-op|shuffle|slice|concat|cast|signal|wait", re.IGNORECASE)
_ATTENTION = re.compile(r"mha|fmha|attention", re.IGNORECASE)
_CONVOLUTION = re.compile(r"conv|correlation", re.IGNORECASE)
_PRODUCT = re.compile(r"gemm|gemv|matrix_?multiply|matmul|fullyconnected", re.IGNORECASE)


@dataclass(frozen=True)
class Tensor:
    """What a layer reads or writes."""

    name: str
    shape: tuple[int, ...]
    """-1 stands for a size that the profile leaves open."""
    dtype: str
    """TensorRT's word for it, a key of `BITS`; empty if it does not say."""

    @property
    def nbytes(self) -> int:
        """Its bytes, without gaps between rows."""
        return math.ceil(math.prod(self.shape) * BITS[self.dtype] / 8)


@dataclass(frozen=True)
class Layer:
    """One layer of a plan."""

    name: str
    type: str
    """TensorRT's word for it, such as CaskConvolution."""
    tactic: str
    """TensorRT's name for its code; empty where it gives none, or where the GPU at hand decides."""
    nodes: tuple[str, ...]
    """The ONNX nodes it computes, as far as TensorRT says."""
    inputs: tuple[Tensor, ...]
    constants: tuple[Tensor, ...]
    """Weights and tables."""
    outputs: tuple[Tensor, ...]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Everything that it reads and writes; a tensor that is listed twice comes twice."""
        return (*self.inputs, *self.constants, *self.outputs)

    @cached_property
    def kind(self) -> str | None:
        """One of `KINDS`, by TensorRT's type and name, and for generated kernels by their ONNX nodes.

        None if the layer takes little time, or if nothing says that it takes more.
        """
        if self.named_kind is not None or _MOVERS.search(self.type):
            return self.named_kind
        operators = Counter(operator(node) for node in self.nodes)
        if operators["MatMul"] >= 2 and operators["Softmax"]:
            return "attention"
        if operators["Conv"]:
            return "convolution"
        return "matrix product" if operators["MatMul"] else None

    @cached_property
    def named_kind(self) -> str | None:
        """One of `KINDS`, if TensorRT's type or name says it."""
        if _MOVERS.search(self.type):
            return None
        if _ATTENTION.search(self.type) or _ATTENTION.search(self.name.split("/", maxsplit=1)[0]):
            return "attention"
        if _CONVOLUTION.search(self.type):
            return "convolution"
        return "matrix product" if _PRODUCT.search(self.type) or "Fc" in self._parts else None

    @cached_property
    def dtypes(self) -> frozenset[str]:
        """Floating and quantised types among its inputs, outputs and weights: fp32, fp16, bf16 and those of `NARROW`.

        "tf32" in place of "fp32" if a type or the tactic says TF32, which keeps 10 bits of the mantissa.
        """
        found = {_PRECISIONS[tensor.dtype] for tensor in self.tensors if tensor.dtype in _PRECISIONS}
        if "tf32" in found or "tf32" in self.tactic.lower():
            found = found - {"fp32"} | {"tf32"}
        return frozenset(found)

    @property
    def is_region(self) -> bool:
        """Whether it is a part of the graph whose kernels TensorRT does not list.

        What copies a tensor to or from such a part has its name within its own.
        """
        return bool(_REGION.match(self.type) or _REGION.match(self.name))

    @property
    def only_moves(self) -> bool:
        """Whether it computes nothing; a kernel whose name TensorRT has cut short (`Etc`) is not known to."""
        return bool(self._parts) and COPYING.issuperset(self._parts)

    @property
    def is_opaque(self) -> bool:
        """Whether nothing says what it computes."""
        generated = _GENERATED_TYPE.search(self.type) and not self.only_moves
        return self.is_region or bool(self.kind is None and not self.nodes and generated)

    @property
    def _parts(self) -> list[str]:
        """What a generated name is made of: `__myl_FcAddCast_myl0_3` of Fc, Add and Cast."""
        found = _GENERATED_NAME.fullmatch(self.name)
        return [] if found is None else re.findall("[A-Z][a-z0-9]*", found[1])


def operator(node: str) -> str:
    """The operator in the name that the export gave a node: `b2/layers/0/MatMul_2` computes a MatMul."""
    return re.sub(r"_\d+$", "", node.rsplit("/", 1)[-1])


def onnx_nodes(metadata: str) -> tuple[str, ...]:
    """The ONNX nodes that TensorRT lists in a layer's metadata, each once."""
    return tuple(dict.fromkeys(_ONNX_NODE.findall(metadata)))
