"""The layers of a plan, as TensorRT's inspector says them of an engine on a GPU."""

from __future__ import annotations

import json
import re
from typing import Any

from engines.layers import Layer, Tensor, onnx_nodes
from spd.errors import TensorRTError
from spd.runtime.tensorrt.engine import Runtime

# "Format/Datatype" is Half, BFloat16 or Float, or a format such as "Row major linear FP16 format". Longer words come
# before those that they hold.
_WORDS = (
    ("TF32", r"tf32"), ("BFloat16", r"bf16|bfloat"), ("Half", r"fp16|float16|half"), ("FP8", r"fp8|float8"),
    ("FP4", r"fp4|float4"), ("Float", r"fp32|float"), ("Int64", r"int64"), ("Int32", r"int32"), ("UInt8", r"uint8"),
    ("Int8", r"int8"), ("Int4", r"int4"), ("Bool", r"bool"),
)  # fmt: skip


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
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        found = ()
    if not found:
        raise TensorRTError(
            f"the inspector of TensorRT gives no layers of {file} ({text[:60]!r}), expected their types and nodes; "
            "spd-build keeps them in the engines that it builds"
        )
    return found


def _layer(values: dict[str, Any]) -> Layer:
    return Layer(
        name=str(values.get("Name", "")),
        type=str(values["LayerType"]),
        tactic=str(values.get("TacticName") or ""),
        nodes=onnx_nodes(str(values.get("Metadata", ""))),
        inputs=_tensors(values.get("Inputs")),
        constants=tuple(Tensor("", (), _word(weights.get("Type"))) for weights in _objects([values.get("Weights")]))
        + _tensors(values.get("Constants")),
        outputs=_tensors(values.get("Outputs")),
    )


def _tensors(values: Any) -> tuple[Tensor, ...]:
    """Tensors in TensorRT's form; 10 says "Format/Datatype", 11 splits it and writes both Datatype and DataType."""
    found = []
    for tensor in _objects(values):
        words = [_word(text) for key, text in tensor.items() if key.lower().endswith("datatype")]
        shape = tuple(int(size) for size in tensor.get("Dimensions") or ())
        found.append(Tensor(str(tensor.get("Name", "")), shape, next(filter(None, words), "")))
    return tuple(found)


def _word(text: Any) -> str:
    """The key of `BITS` for what the inspector says of a type; empty if it says none."""
    return next((word for word, pattern in _WORDS if re.search(pattern, str(text), re.IGNORECASE)), "")


def _objects(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
