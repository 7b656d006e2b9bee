"""Whether a plan computes in the precision that was asked for.

An engine that is float32 throughout although float16 was asked for builds without a word, so every plan is read back.
Each matrix product, convolution and attention must have the asked type among its tensors. The only others allowed are
the float32 islands of design 5, which are told apart by the names of their ONNX nodes. TF32 is not float32.

There are three verdicts. A plan in which a product is shown in another type is wrong. A plan whose layers are mostly
unknown, because TensorRT does not say what they compute or in which types, is unproven. Every other plan is proven.
Types say nothing of results: those are compared on a GPU (`engines.proof`).
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from engines.layers import KINDS, NARROW, Layer, operator
from spd.config import SPDConfig
from spd.errors import ExportError

PRECISION_NAMES = {
    "fp32": "float32",
    "fp16": "float16",
    "bf16": "bfloat16",
    "int8-fp16": "int8 or float16",
    "fp8": "float8 or float16",
}

_QUANTISED_PRODUCTS = {"int8-fp16": "int8", "fp8": "fp8"}
"""The type of the products that a precision quantises; the other products are float16."""

DEMANDS = ("report", "require")
"""What is asked of a plan's layers: to report what they show, or to require that they show the precision."""

# What TensorRT adds to the name of an ONNX node, where it gives no metadata.
_GENERATED = re.compile(r"(_U\d+)?(_myl\d+_\d+)?( \[profile \d+\])?$")


@dataclass(frozen=True)
class Inspection:
    """A plan's layers, counted."""

    precision: str
    types: dict[str, int]
    """How many layers of each of TensorRT's types."""
    relevant: tuple[Layer, ...]
    """The layers that take the time, or may take it."""
    right: tuple[Layer, ...]
    """Those of them in the asked precision."""
    islands: tuple[Layer, ...]
    """Those of them that are float32 on purpose."""
    wrong: tuple[Layer, ...]
    """Those of them in another precision than asked for, without being islands."""
    unknown: tuple[Layer, ...]
    """Those of them of which TensorRT does not say what they compute, or in which types."""

    @property
    def share(self) -> float:
        """Share of the relevant layers that are known to be in the asked precision; 0 if there are none."""
        return len(self.right) / len(self.relevant) if self.relevant else 0.0

    @property
    def verdict(self) -> str:
        """wrong, unproven or proven; a region of the graph that TensorRT does not list may hold most of it."""
        if self.wrong:
            return "wrong"
        mostly_known = 2 * len(self.unknown) <= len(self.relevant)
        return "proven" if self.right and mostly_known and not any(x.is_region for x in self.unknown) else "unproven"

    def as_dict(self) -> dict[str, Any]:
        """For `engines.json`."""
        right = Counter(layer.kind for layer in self.right)
        return {
            "layers": sum(self.types.values()),
            "types": self.types,
            "time_relevant": {
                kind: {"layers": sum(layer.kind == kind for layer in self.relevant), "in_precision": right[kind]}
                for kind in KINDS
            },
            "unknown": len(self.unknown),
            "share_in_precision": round(self.share, 4),
            "verdict": self.verdict,
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


def inspect_layers(layers: tuple[Layer, ...], precision: str, islands: tuple[str, ...]) -> Inspection:
    """Judge the layers of a plan.

    Args:
        layers: from `engines.inspector` or `engines.kernels`.
        precision: a key of `PRECISION_NAMES`, as asked for.
        islands: from `island_paths`.
    """
    relevant = _relevant_layers(layers)
    judged: dict[str, list[Layer]] = {"right": [], "islands": [], "wrong": [], "unknown": []}
    for layer in relevant:
        judged[_group(layer, precision, islands)].append(layer)
    return Inspection(
        precision=precision,
        types=dict(Counter(layer.type for layer in layers).most_common()),
        relevant=relevant,
        **{group: tuple(found) for group, found in judged.items()},
    )


def check_precision(inspection: Inspection, what: str, demand: str = "require") -> str | None:
    """Refuse a plan that does not compute in the asked precision, or that nothing shows to compute in it.

    Args:
        inspection: of the plan.
        what: names the plan in messages, such as "engine of the encoder".
        demand: one of `DEMANDS`. An unproven plan is refused with "require"; with "report" it is not, and the
            caller tells the user of it. A wrong plan is always refused.

    Returns:
        None for a proven plan; one line about an unproven one.

    Raises:
        ExportError: names some of the layers that are wrong or unknown.
    """
    if inspection.verdict == "proven":
        return None
    precision, count = inspection.precision, len(inspection.relevant)
    name = PRECISION_NAMES[precision]
    if inspection.verdict == "wrong":
        raise ExportError(
            f"the {precision} {what} is not {name}: {len(inspection.wrong)} of {count} matrix products, convolutions "
            f"and attentions compute in another type, such as {_some(inspection.wrong)}; no engine was written; export "
            f"the graphs again with --precision {precision}"
        )
    reason = "none of its layers is known to be a matrix product, a convolution or an attention"
    if inspection.unknown:
        reason = (
            f"TensorRT does not say what {len(inspection.unknown)} of {count} of its layers compute, or in which "
            f"types, such as {_some(inspection.unknown)}"
        )
    doubt = f"nothing shows that the {precision} {what} computes in {name}: {reason}"
    if demand == "require":
        raise ExportError(f"{doubt}; no engine was written; --inspection report accepts such engines")
    return doubt


def _relevant_layers(layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """The layers that take the time, or may take it.

    TensorRT lists a product also with generated kernels that pad its operands or cut its result. These do not count.
    """
    computed = {node for layer in layers if layer.named_kind is not None for node in _product_nodes(layer)}
    return tuple(
        layer
        for layer in layers
        if layer.is_opaque
        or layer.named_kind is not None
        or (layer.kind is not None and not computed.issuperset(_product_nodes(layer)))
    )


def _some(layers: tuple[Layer, ...]) -> str:
    """A few layers for a message."""
    return ", ".join(
        f"{layer.name} ({layer.type})"
        if layer.is_opaque
        else f"{layer.name} ({layer.kind} in {'/'.join(sorted(layer.dtypes)) or 'no stated type'})"
        for layer in layers[:3]
    )


def _group(layer: Layer, precision: str, islands: tuple[str, ...]) -> str:
    """The group of `Inspection` that a relevant layer is in."""
    if layer.is_opaque or not layer.dtypes:
        return "unknown"
    if _computes_in(layer, precision):
        return "right"
    if layer.dtypes != {"fp32"}:
        return "wrong"
    nodes = _product_nodes(layer)
    if not nodes and not layer.nodes:  # it may be an island
        return "unknown"
    inside = bool(nodes) and all(any(f"{node}/".startswith(f"{island}/") for island in islands) for node in nodes)
    return "islands" if inside else "wrong"


def _computes_in(layer: Layer, precision: str) -> bool:
    """Products of 16 and 8 bits may read or write float32 next to their own type, by a cast that was fused."""
    if precision == "fp32":
        return layer.dtypes == {"fp32"}
    if precision in _QUANTISED_PRODUCTS:
        return bool(layer.dtypes & {_QUANTISED_PRODUCTS[precision], "fp16"})
    return precision in layer.dtypes and not layer.dtypes & NARROW


def _product_nodes(layer: Layer) -> list[str]:
    """The matrix products and convolutions in a layer, by its nodes, else by its name."""
    nodes = layer.nodes or [_GENERATED.sub("", name) for name in re.split(r" ?\+ ?", layer.name)]
    return [node for node in nodes if operator(node) in ("MatMul", "Conv")]
