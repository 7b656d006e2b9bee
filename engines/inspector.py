"""What TensorRT's inspector says of a plan: its layers, the ONNX nodes that each computes, and in which types.

TensorRT gives generated kernels names of its own. The nodes that it lists for each layer are the module paths that the
export gives its nodes.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from spd.errors import TensorRTError
from spd.runtime.tensorrt.engine import Runtime

KINDS = ("matrix product", "convolution", "attention")
"""The layers that take the time."""

# As they appear in "Format/Datatype": Half, BFloat16, Float, or "Row major linear FP16 format". bfloat16 comes first,
# because its name holds float's.
_DTYPES = (
    ("bf16", re.compile(r"bf16|bfloat", re.IGNORECASE)),
    ("fp16", re.compile(r"fp16|float16|half", re.IGNORECASE)),
    ("fp32", re.compile(r"fp32|float", re.IGNORECASE)),
)
_ONNX_NODE = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
# Layers that move or hold data and compute nothing, whatever ONNX nodes they are listed with.
_MOVERS = re.compile(r"reformat|constant|noop|no-op|shuffle|slice|concat|cast|signal|wait", re.IGNORECASE)
_ATTENTION = re.compile(r"mha|fmha|attention", re.IGNORECASE)
_CONVOLUTION = re.compile(r"conv", re.IGNORECASE)
_PRODUCT = re.compile(r"gemm|gemv|matrix_?multiply|matmul|fullyconnected", re.IGNORECASE)


@dataclass(frozen=True)
class Layer:
    """One layer of a plan."""

    name: str
    type: str
    """TensorRT's word for it, such as CaskConvolution."""
    kind: str | None
    """One of `KINDS`; None if it takes little time."""
    nodes: tuple[str, ...]
    """The ONNX nodes it computes, as far as TensorRT says."""
    dtypes: frozenset[str]
    """Floating types among its inputs, outputs and weights: fp32, fp16, bf16."""


def plan_layers(runtime: Runtime, engine: Any, file: str) -> tuple[Layer, ...]:
    """The layers of a deserialised plan; `file` names it in messages.

    Raises:
        TensorRTError: the inspector fails, or gives no detailed layers.
    """
    inspector = engine.create_engine_inspector()
    if inspector is None:
        raise runtime.error("create_engine_inspector", file)
    return read_layers(str(inspector.get_engine_information(runtime.trt.LayerInformationFormat.JSON)), file)


def read_layers(text: str, file: str) -> tuple[Layer, ...]:
    """The layers in the inspector's JSON, in its order.

    Raises:
        TensorRTError: the text is not what the inspector says of a plan built with detailed verbosity.
    """
    try:
        # TensorRT separates names within "Metadata" by a control character, which strict JSON forbids.
        layers = json.loads(text, strict=False)["Layers"]
        found = tuple(_layer(layer) for layer in layers)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        found = ()
    if not found:
        raise TensorRTError(
            f"the inspector of TensorRT gives no layers of {file} ({text[:60]!r}), expected their types and nodes; "
            "spd-build keeps them in the engines that it builds"
        )
    return found


def operator(node: str) -> str:
    """The operator in the name that the export gave a node: `b2/layers/0/MatMul_2` computes a MatMul."""
    return re.sub(r"_\d+$", "", node.rsplit("/", 1)[-1])


def _layer(values: dict[str, Any]) -> Layer:
    name, layer_type = str(values.get("Name", "")), str(values["LayerType"])
    nodes = onnx_nodes(str(values.get("Metadata", "")))
    return Layer(name, layer_type, layer_kind(layer_type, name, nodes), nodes, floating_types(_type_texts(values)))


def onnx_nodes(metadata: str) -> tuple[str, ...]:
    """The ONNX nodes that TensorRT lists in a layer's metadata, each once."""
    return tuple(dict.fromkeys(_ONNX_NODE.findall(metadata)))


def layer_kind(layer_type: str, name: str, nodes: tuple[str, ...]) -> str | None:
    """What a layer is, by TensorRT's type and name, and for its generated kernels by the ONNX nodes they contain.

    Returns:
        One of `KINDS`; None if it takes little time.
    """
    if _MOVERS.search(layer_type):
        return None
    operators = Counter(operator(node) for node in nodes)
    if _ATTENTION.search(layer_type) or _ATTENTION.search(name.split("/", maxsplit=1)[0]):
        return "attention"
    if operators["MatMul"] >= 2 and operators["Softmax"]:
        return "attention"
    if _CONVOLUTION.search(layer_type) or operators["Conv"]:
        return "convolution"
    if _PRODUCT.search(layer_type) or operators["MatMul"]:
        return "matrix product"
    return None


def floating_types(texts: Iterable[str]) -> frozenset[str]:
    """Those of fp32, fp16 and bf16 that TensorRT's words for types mean."""
    found = (next((name for name, pattern in _DTYPES if pattern.search(text)), None) for text in texts)
    return frozenset(name for name in found if name is not None)


def _type_texts(values: dict[str, Any]) -> list[str]:
    """The types of a layer's inputs, outputs and weights, in TensorRT's words."""
    tensors = [*_objects(values.get("Inputs")), *_objects(values.get("Outputs"))]
    # "Format/Datatype" in TensorRT 10; 11 splits it, and its documents write both Datatype and DataType.
    texts = [str(text) for tensor in tensors for key, text in tensor.items() if key.lower().endswith("datatype")]
    return texts + [str(weights.get("Type", "")) for weights in _objects([values.get("Weights")])]


def _objects(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
