"""What TensorRT's inspector says of a plan: its layers by type, and whether they compute in the asked precision.

An engine that is float32 throughout although float16 was asked for builds without a word, so every plan is read back.
The layers that take the time are matrix products, convolutions and attention. Each must have the asked type among its
tensors. The only others allowed are the float32 islands of design 5: they are told apart by the names of the ONNX nodes
that TensorRT lists for each layer, which are the module paths that the export gives its nodes.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from spd.config import SPDConfig
from spd.errors import ExportError

KINDS = ("matrix product", "convolution", "attention")
"""The layers that take the time."""

PRECISION_NAMES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}

# As they appear in "Format/Datatype": Half, BFloat16, Float, or "Row major linear FP16 format". bfloat16 comes first,
# because its name holds float's.
_DTYPES = (
    ("bf16", re.compile(r"bf16|bfloat", re.IGNORECASE)),
    ("fp16", re.compile(r"fp16|float16|half", re.IGNORECASE)),
    ("fp32", re.compile(r"fp32|float", re.IGNORECASE)),
)
_ONNX_NODE = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
# What TensorRT adds to the name of an ONNX node, where it gives no metadata.
_GENERATED = re.compile(r"(_myl\d+_\d+)?( \[profile \d+\])?$")
# Layers that move or hold data and compute nothing, whatever ONNX nodes they are listed with.
_MOVERS = re.compile(r"reformat|constant|noop|no-op|shuffle|slice|concat|cast|signal|wait", re.IGNORECASE)
_ATTENTION = re.compile(r"mha|fmha|attention", re.IGNORECASE)
_CONVOLUTION = re.compile(r"conv", re.IGNORECASE)
_PRODUCT = re.compile(r"gemm|gemv|matrix_?multiply|matmul|fullyconnected", re.IGNORECASE)


@dataclass(frozen=True)
class Layer:
    """One layer of a plan that takes time."""

    name: str
    kind: str
    """One of `KINDS`."""
    nodes: tuple[str, ...]
    """The ONNX nodes it computes, as far as TensorRT says."""
    dtypes: frozenset[str]
    """Floating types among its inputs, outputs and weights: fp32, fp16, bf16."""


@dataclass(frozen=True)
class Inspection:
    """A plan's layers, counted."""

    precision: str
    types: dict[str, int]
    """How many layers of each of TensorRT's types."""
    relevant: tuple[Layer, ...]
    """The layers that take the time."""
    islands: tuple[Layer, ...]
    """Those of them that are float32 on purpose."""
    wrong: tuple[Layer, ...]
    """Those of them in another precision than asked for, without being islands."""

    @property
    def share(self) -> float:
        """Share of the relevant layers in the asked precision."""
        return 1 - (len(self.islands) + len(self.wrong)) / len(self.relevant)

    def as_dict(self) -> dict[str, Any]:
        """For `engines.json`."""
        right = Counter(layer.kind for layer in self.relevant if _computes_in(layer, self.precision))
        return {
            "layers": sum(self.types.values()),
            "types": self.types,
            "time_relevant": {
                kind: {"layers": sum(layer.kind == kind for layer in self.relevant), "in_precision": right[kind]}
                for kind in KINDS
            },
            "share_in_precision": round(self.share, 4),
            "float32_islands": sorted({" + ".join(layer.nodes) or layer.name for layer in self.islands}),
        }


def island_paths(graph: str, config: SPDConfig, float32_modules: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Paths of the ONNX nodes that multiply matrices in float32 in every precision.

    In the decoder these are the scores of B3b's last layer, which feed TopK, and the head's last layer (design 5). The
    other islands, normalisation, GRN, LayerNorm and coordinates, contain no matrix product.

    Args:
        graph: encoder or decoder.
        config: of the model.
        float32_modules: what a precision policy adds, from the manifest, such as `encoder.stages.2.blocks.1.fc2`.
    """
    added = (name.removeprefix(f"{graph}.") for name in float32_modules if name.startswith(f"{graph}."))
    fixed = (f"b3b/layers/{config.b3_layers - 1}/MatMul", "head/w_r2") if graph == "decoder" else ()
    return (*fixed, *(name.replace(".", "/") for name in added))


def inspect_plan(text: str, precision: str, islands: tuple[str, ...]) -> Inspection:
    """Read `EngineInspector.get_engine_information(JSON)` of a plan built with detailed verbosity.

    Args:
        text: the inspector's JSON.
        precision: fp32, fp16 or bf16, as asked for.
        islands: from `island_paths`.

    Raises:
        ExportError: the text is not what the inspector of a detailed plan says, or names no layer that takes time.
    """
    try:
        # TensorRT separates names within "Metadata" by a control character, which strict JSON forbids.
        layers = json.loads(text, strict=False)["Layers"]
        detailed = bool(layers) and all(isinstance(layer, dict) and "LayerType" in layer for layer in layers)
    except (ValueError, KeyError, TypeError):
        detailed = False
    if not detailed:
        raise ExportError(
            f"the inspector of TensorRT gives no layer types ({text[:60]!r}), so nothing proves that the plan is "
            f"{precision}; it is not used"
        )
    relevant = tuple(_relevant(layers))
    if not relevant:
        raise ExportError(
            f"the inspector of TensorRT names no matrix product and no convolution among {len(layers)} layers, so "
            f"nothing proves that the plan is {precision}; it is not used"
        )
    other = [layer for layer in relevant if not _computes_in(layer, precision)]
    on_purpose = [layer for layer in other if layer.dtypes == {"fp32"} and _is_island(layer, islands)]
    return Inspection(
        precision=precision,
        types=dict(Counter(layer["LayerType"] for layer in layers).most_common()),
        relevant=relevant,
        islands=tuple(on_purpose),
        wrong=tuple(layer for layer in other if layer not in on_purpose),
    )


def check_precision(inspection: Inspection, what: str) -> None:
    """Refuse a plan that does not compute in the asked precision.

    Raises:
        ExportError: names some of the layers that do not.
    """
    if not inspection.wrong:
        return
    some = ", ".join(
        f"{layer.name} ({layer.kind} in {'/'.join(sorted(layer.dtypes)) or 'no floating type'})"
        for layer in inspection.wrong[:3]
    )
    raise ExportError(
        f"the {inspection.precision} {what} is not {PRECISION_NAMES[inspection.precision]}: {len(inspection.wrong)} of "
        f"{len(inspection.relevant)} matrix products, convolutions and attentions compute in another type, such as "
        f"{some}; no engine was written; export the graphs again with --precision {inspection.precision}"
    )


def _relevant(layers: list[dict[str, Any]]) -> Iterator[Layer]:
    for layer in layers:
        nodes = tuple(dict.fromkeys(_ONNX_NODE.findall(str(layer.get("Metadata", "")))))
        kind = _kind(layer, nodes)
        if kind is not None:
            yield Layer(str(layer.get("Name", "")), kind, nodes, frozenset(_dtypes(layer)))


def _computes_in(layer: Layer, precision: str) -> bool:
    """float16 and bfloat16 products may read or write float32 next to their own type, by a cast that was fused."""
    return layer.dtypes == {"fp32"} if precision == "fp32" else precision in layer.dtypes


def _kind(layer: dict[str, Any], nodes: tuple[str, ...]) -> str | None:
    """One of `KINDS`, by TensorRT's type and name, and for its generated kernels by the ONNX nodes they contain."""
    layer_type, name = layer["LayerType"], str(layer.get("Name", ""))
    if _MOVERS.search(layer_type):
        return None
    operators = Counter(_operator(node) for node in nodes)
    if _ATTENTION.search(layer_type) or _ATTENTION.search(name.split("/", maxsplit=1)[0]):
        return "attention"
    if operators["MatMul"] >= 2 and operators["Softmax"]:
        return "attention"
    if _CONVOLUTION.search(layer_type) or operators["Conv"]:
        return "convolution"
    if _PRODUCT.search(layer_type) or operators["MatMul"]:
        return "matrix product"
    return None


def _operator(node: str) -> str:
    """`b2/layers/0/MatMul_2` computes a MatMul."""
    return re.sub(r"_\d+$", "", node.rsplit("/", 1)[-1])


def _is_island(layer: Layer, islands: tuple[str, ...]) -> bool:
    """Whether every matrix product and convolution in the layer is an island's."""
    nodes = layer.nodes or (_GENERATED.sub("", layer.name),)
    products = [node for node in nodes if _operator(node) in ("MatMul", "Conv")]
    return bool(products) and all(any(f"{node}/".startswith(f"{island}/") for island in islands) for node in products)


def _dtypes(layer: dict[str, Any]) -> Iterator[str]:
    tensors = [*_objects(layer.get("Inputs")), *_objects(layer.get("Outputs"))]
    # "Format/Datatype" in TensorRT 10; 11 splits it, and its documents write both Datatype and DataType.
    texts = [str(text) for tensor in tensors for key, text in tensor.items() if key.lower().endswith("datatype")]
    texts += [str(weights.get("Type", "")) for weights in _objects([layer.get("Weights")])]
    for text in texts:
        found = next((precision for precision, pattern in _DTYPES if pattern.search(text)), None)
        if found is not None:
            yield found


def _objects(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
