"""Stand-in for the engine inspector: the layers that NVIDIA's compiler made of the same graph, in TensorRT's JSON.

They were recorded from TensorRT for RTX by `tools/record_rtx_layers.py`. A graph that was not recorded has a layer for
each node.
"""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

from engines.layers import onnx_nodes, operator
from stand_ins.machine import current
from stand_ins.trt_enums import NoConstructor, enum, expect
from stand_ins.trt_graph import Graph, Node
from stand_ins.trt_plan import Plan

RECORDED = Path(__file__).parent / "rtx_layers.json.gz"

WORDS = {
    "FLOAT": "Float",
    "HALF": "Half",
    "BF16": "BFloat16",
    "UINT8": "UInt8",
    "INT8": "Int8",
    "INT32": "Int32",
    "INT64": "Int64",
    "BOOL": "Bool",
}
"""Types as the inspector writes them."""

TYPES = {"Conv": "CaskConvolution", "MatMul": "gemm"}
"""Layer types of operators in graphs that were not recorded; all others are generated kernels."""

Layer = dict[str, Any]


class EngineInspector(NoConstructor):
    """Says what an engine consists of, as far as its profiling verbosity allows."""

    @classmethod
    def _make(cls, plan: Plan) -> EngineInspector:
        made = cls.__new__(cls)
        made._plan = plan
        made.execution_context = None
        return made

    _plan: Plan
    execution_context: Any

    def get_engine_information(self, format: Any) -> str:  # noqa: A002 - the real name
        """All layers, as JSON or one line each."""
        layers = self._layers()
        if expect(format, "LayerInformationFormat") is enum("LayerInformationFormat").JSON:
            bindings = [tensor.name for tensor in self._plan.graph.tensors]
            return json.dumps({"Layers": layers, "Bindings": bindings})
        return "\n".join(layer if isinstance(layer, str) else layer["Name"] for layer in layers)

    def get_layer_information(self, layer_index: int, format: Any) -> str:  # noqa: A002 - the real name
        """One layer, as JSON or one line."""
        layer = self._layers()[layer_index]
        if expect(format, "LayerInformationFormat") is enum("LayerInformationFormat").JSON:
            return json.dumps(layer)
        return layer if isinstance(layer, str) else str(layer["Name"])

    def _layers(self) -> list[Any]:
        if self._plan.verbosity == "NONE":
            return []
        layers = [
            {**layer, "Name": layer["Name"] + (f" [profile {profile}]" if profile else "")}
            for profile in range(len(self._plan.profiles) or 1)
            for layer in layers_of_graph(self._plan.graph)
        ]
        if self._plan.verbosity == "LAYER_NAMES_ONLY":
            return [layer["Name"] for layer in layers]
        return layers


def layers_of_graph(graph: Graph) -> list[Layer]:
    """The layers of one profile."""
    # Reading shapes is a layer without tensors; whoever expects a type in each layer stumbles over it.
    shape_call: Layer = {"Name": "shape_call", "LayerType": "shape_call", "Inputs": [], "Outputs": []}
    nodes = [node for node in graph.nodes if node.operator != "Constant"]
    layers = _recorded(graph) or [_layer(graph, node, i) for i, node in enumerate(nodes)]
    if current().faults.float32_layers:
        text = json.dumps(layers).replace('"Half"', '"Float"').replace('"BFloat16"', '"Float"')
        layers = json.loads(text)
    return [shape_call, *layers]


@cache
def recorded_layers() -> dict[str, dict[str, list[Layer]]]:
    """The recorded layers by graph, encoder or decoder, and precision."""
    layers: dict[str, dict[str, list[Layer]]] = json.loads(gzip.decompress(RECORDED.read_bytes()))
    return layers


def _recorded(graph: Graph) -> list[Layer]:
    """The layers of a graph with the same products in the same precision; empty if none was recorded."""
    kinds = set(graph.dtypes.values())
    precision = "bf16" if "BF16" in kinds else "fp16" if "HALF" in kinds else "fp32"
    products = {node.name for node in graph.nodes if node.operator in TYPES}
    recorded = [layers[precision] for layers in recorded_layers().values()]
    return next((layers for layers in recorded if _products(layers) == products), [])


def _products(layers: list[Layer]) -> set[str]:
    nodes = {node for layer in layers for node in onnx_nodes(layer["Metadata"])}
    return {node for node in nodes if operator(node) in TYPES}


def _layer(graph: Graph, node: Node, number: int) -> Layer:
    """One node as a layer of its own."""
    words = {key: graph.activations(getattr(node, key)) for key in ("inputs", "outputs")}
    layer_type = TYPES.get(node.operator, "kgen")
    return {
        "Name": f"__myl_{node.operator[:4].title()}_myl0_{number}" if layer_type == "kgen" else node.name,
        "LayerType": layer_type,
        **{
            key.title(): [
                {
                    "Name": tensor,
                    "Dimensions": list(graph.shapes.get(tensor, ())),
                    "Format/Datatype": WORDS[graph.dtypes.get(tensor, "FLOAT")],
                }
                for tensor in tensors
            ]
            for key, tensors in words.items()
        },
        "TacticName": "",
        "StreamId": 0,
        "Metadata": f"[ONNX Layer: {node.name}]",
    }
