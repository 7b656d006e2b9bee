"""Stand-in for the engine inspector: layers as TensorRT fuses and names them, in its JSON."""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

from stand_ins.machine import current
from stand_ins.trt_enums import NoConstructor, enum, expect
from stand_ins.trt_graph import Graph, Node
from stand_ins.trt_plan import Plan

SHORT = {
    "FLOAT": "Float",
    "HALF": "Half",
    "BF16": "BFloat16",
    "UINT8": "UInt8",
    "INT8": "Int8",
    "INT32": "Int32",
    "INT64": "Int64",
    "BOOL": "Bool",
}
"""Types as the inspector writes them for layers of its compiler (kgen, gemm)."""

LONG = {
    "FLOAT": "Row major linear FP32",
    "HALF": "Row major linear FP16 format",
    "BF16": "Row major linear BFloat16 format",
}
"""Types as the inspector writes them for layers from its libraries (convolutions, reformats)."""

ALONE = {"Conv": "CaskConvolution", "MatMul": "gemm", "Gemm": "gemm", "TopK": "TopK", "Gather": "Gather"}
"""Layer types of operators that are a layer of their own; runs of others are fused into one."""

GLUE = ("Transpose", "Reshape", "Unsqueeze", "Squeeze")

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
            for layer in _layers(self._plan.graph)
        ]
        if self._plan.verbosity == "LAYER_NAMES_ONLY":
            return [layer["Name"] for layer in layers]
        return layers


def layer_count(plan: Plan) -> int:
    """Layers of one profile."""
    return len(_layers(plan.graph))


def _layers(graph: Graph) -> list[Layer]:
    # Reading shapes is a layer without tensors; whoever expects a type in each layer stumbles over it.
    layers: list[Layer] = [{"Name": "shape_call", "LayerType": "shape_call", "Inputs": [], "Outputs": []}]
    run: list[Node] = []
    attention = _attention(graph)
    absorbed = {id(node) for group in attention.values() for node in group}
    for node in graph.nodes:
        if node.operator == "Constant" or (id(node) in absorbed and id(node) not in attention):
            continue
        if id(node) not in attention and node.operator not in ALONE:
            run.append(node)
            continue
        layers += _fused(graph, run)
        run = []
        layers.append(_mha(graph, attention[id(node)]) if id(node) in attention else _single(graph, node))
    return layers + _fused(graph, run)


def _attention(graph: Graph) -> dict[int, list[Node]]:
    """MatMul, Softmax, MatMul in a half type, by the id of the last: TensorRT makes one kernel of them."""
    makers = {name: node for node in graph.nodes for name in node.outputs}
    uses = Counter(name for node in graph.nodes for name in node.inputs)
    found = {}
    for last in graph.nodes:
        softmax = makers.get(last.inputs[0]) if last.operator == "MatMul" else None
        first = makers.get(softmax.inputs[0]) if softmax is not None and softmax.operator == "Softmax" else None
        half = graph.dtypes.get(last.outputs[0]) in ("HALF", "BF16")
        if softmax is None or first is None or first.operator != "MatMul" or not half:
            continue
        if uses[first.outputs[0]] == uses[softmax.outputs[0]] == 1:
            found[id(last)] = [first, softmax, last]
    return found


def _single(graph: Graph, node: Node) -> Layer:
    kind = ALONE[node.operator]
    name = node.name if kind != "gemm" else f"{node.name}_myl0_{_number(node.name)}"
    layer = _layer(graph, name, kind, [node], node.inputs, node.outputs, LONG if kind == "CaskConvolution" else SHORT)
    if kind in ("gemm", "CaskConvolution"):
        word = {"FLOAT": "f32f32_tf32f32_f32", "HALF": "f16f16_f16f32_f16", "BF16": "bf16bf16_bf16f32_bf16"}
        operation = "gemm" if kind == "gemm" else "fprop_implicit_gemm"
        types = word.get(_dtype(graph, node.outputs[0]), "")
        layer["TacticName"] = f"sm90_xmma_{operation}_{types}_tn_n_tilesize64x64x64"
    return layer


def _mha(graph: Graph, nodes: Sequence[Node]) -> Layer:
    inputs = (*nodes[0].inputs, nodes[2].inputs[1])
    name = f"_gemm_mha_v2_myl0_{_number(nodes[0].name)}"
    return _layer(graph, name, "kgen", nodes, inputs, nodes[2].outputs, SHORT)


def _fused(graph: Graph, nodes: Sequence[Node]) -> list[Layer]:
    if not nodes:
        return []
    made = {name for node in nodes for name in node.outputs}
    inputs = dict.fromkeys(name for node in nodes for name in node.inputs if name not in made)
    words = "".join(node.operator[:4].title() for node in nodes if node.operator not in GLUE) or "Move"
    name = f"__myl_{words[:40]}_myl0_{_number(nodes[0].name)}"
    return [_layer(graph, name, "kgen", nodes, list(inputs), nodes[-1].outputs, SHORT)]


def _layer(
    graph: Graph,
    name: str,
    kind: str,
    nodes: Sequence[Node],
    inputs: Sequence[str],
    outputs: Sequence[str],
    words: dict[str, str],
) -> Layer:
    def tensors(names: Sequence[str]) -> list[Layer]:
        return [
            {
                "Name": tensor,
                "Dimensions": list(graph.shapes.get(tensor, ())),
                "Format/Datatype": words.get(_dtype(graph, tensor), SHORT[_dtype(graph, tensor)]),
            }
            for tensor in graph.activations(names)
        ]

    return {
        "Name": name,
        "LayerType": kind,
        "Inputs": tensors(inputs),
        "Outputs": tensors(outputs),
        "TacticName": name,
        "StreamId": 0,
        "Metadata": "\x1f".join(f"[ONNX Layer: {node.name}]" for node in nodes),
    }


def _number(name: str) -> int:
    return zlib.crc32(name.encode()) % 1000


def _dtype(graph: Graph, tensor: str) -> str:
    dtype = graph.dtypes.get(tensor, "FLOAT")
    return "FLOAT" if current().faults.float32_layers and dtype in ("HALF", "BF16") else dtype
