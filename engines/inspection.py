"""Whether a plan computes in the precision that was asked for.

An engine that is float32 throughout although float16 was asked for builds without a word, so every plan is read back.
Each matrix product, convolution and attention must have the asked type among its tensors. The only others allowed are
the float32 islands of design 5, which are told apart by the names of their ONNX nodes.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from engines.inspector import KINDS, Layer, operator
from spd.config import SPDConfig
from spd.errors import ExportError

PRECISION_NAMES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}

# What TensorRT adds to the name of an ONNX node, where it gives no metadata.
_GENERATED = re.compile(r"(_myl\d+_\d+)?( \[profile \d+\])?$")


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


def inspect_layers(layers: tuple[Layer, ...], precision: str, islands: tuple[str, ...]) -> Inspection:
    """Judge the layers of a plan.

    Args:
        layers: from `engines.inspector`.
        precision: fp32, fp16 or bf16, as asked for.
        islands: from `island_paths`.

    Raises:
        ExportError: no layer takes time, so nothing would be judged.
    """
    relevant = tuple(layer for layer in layers if layer.kind is not None)
    if not relevant:
        raise ExportError(
            f"the inspector of TensorRT names no matrix product and no convolution among {len(layers)} layers, so "
            f"nothing proves that the plan is {precision}; it is not used"
        )
    other = [layer for layer in relevant if not _computes_in(layer, precision)]
    on_purpose = [layer for layer in other if layer.dtypes == {"fp32"} and _is_island(layer, islands)]
    return Inspection(
        precision=precision,
        types=dict(Counter(layer.type for layer in layers).most_common()),
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


def _computes_in(layer: Layer, precision: str) -> bool:
    """float16 and bfloat16 products may read or write float32 next to their own type, by a cast that was fused."""
    return layer.dtypes == {"fp32"} if precision == "fp32" else precision in layer.dtypes


def _is_island(layer: Layer, islands: tuple[str, ...]) -> bool:
    """Whether every matrix product and convolution in the layer is an island's."""
    nodes = layer.nodes or (_GENERATED.sub("", layer.name),)
    products = [node for node in nodes if operator(node) in ("MatMul", "Conv")]
    return bool(products) and all(any(f"{node}/".startswith(f"{island}/") for island in islands) for node in products)
