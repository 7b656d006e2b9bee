"""The text of each model's `config.pbtxt`, in protobuf's text format."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from spd.bundle import Manifest
from spd.bundle.contract import DTYPES, TensorSpec
from spd.bundle.plans import PlanRecord

TYPES = {
    "uint8": "TYPE_UINT8",
    "int64": "TYPE_INT64",
    "float32": "TYPE_FP32",
    "float16": "TYPE_FP16",
    "bfloat16": "TYPE_BF16",
}
"""Triton's word for a dtype of the contract."""

_IMAGE = """\
  { name: "IMAGE" data_type: TYPE_UINT8 dims: [ -1, -1, 3 ] optional: true },
  { name: "FILE" data_type: TYPE_UINT8 dims: [ -1 ] optional: true },"""
_DEPTH = """output [ { name: "DEPTH" data_type: TYPE_FP32 dims: [ -1 ] } ]"""


@dataclass(frozen=True)
class SceneOptions:
    """How the model that keeps scenes is run."""

    backend: str
    """As in `spd.load`."""
    precision: str | None
    """As in `spd.load`."""
    cache_budget: str | None
    """As in `spd.load`: for the caches of each instance."""
    max_scenes: int
    """Sequences that are open at once in each instance."""
    idle_seconds: int
    """A sequence without requests for so long is closed by Triton."""


def scenes_config(name: str, options: SceneOptions) -> str:
    """The Python model that keeps a scene for each sequence."""
    parameters = {
        # Tensors on a GPU stay there.
        "FORCE_CPU_ONLY_INPUT_TENSORS": "no",
        "backend": options.backend,
        "precision": options.precision or "",
        "cache_budget": options.cache_budget or "",
        "max_scenes": str(options.max_scenes),
    }
    return f"""\
# The first request of a sequence brings IMAGE, or FILE; this and all others may bring POINTS.
name: {_text(name)}
backend: "python"
max_batch_size: 0
input [
{_IMAGE}
  {{ name: "POINTS" data_type: TYPE_FP32 dims: [ -1, 2 ] optional: true }}
]
{_DEPTH}
sequence_batching {{
  max_sequence_idle_microseconds: {options.idle_seconds * 1_000_000}
  oldest {{ max_candidate_sequences: {options.max_scenes} }}
  control_input [
    {{ name: "START" control [ {{ kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] }} ] }},
    {{ name: "END" control [ {{ kind: CONTROL_SEQUENCE_END int32_false_true: [ 0, 1 ] }} ] }},
    {{ name: "CORRID" control [ {{ kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 }} ] }}
  ]
}}
instance_group [ {{ count: 1 kind: KIND_AUTO }} ]
{_parameters(parameters)}"""


def once_config(name: str, scenes: str) -> str:
    """The Python model that answers an image and its points in one request, through the model `scenes`."""
    return f"""\
# One image, or FILE, and its points in one request.
name: {_text(name)}
backend: "python"
max_batch_size: 0
input [
{_IMAGE}
  {{ name: "POINTS" data_type: TYPE_FP32 dims: [ -1, 2 ] }}
]
{_DEPTH}
# Each instance waits for one answer.
instance_group [ {{ count: 4 kind: KIND_CPU }} ]
{_parameters({"FORCE_CPU_ONLY_INPUT_TENSORS": "no", "scenes": scenes})}"""


def graph_config(name: str, graph: str, precision: str, manifest: Manifest, plan: PlanRecord | None) -> str:
    """The encoder or the decoder by itself, for who chains them: on ONNX Runtime, or as a plan of TensorRT.

    Args:
        name: of the model.
        graph: encoder or decoder.
        precision: of the graph or plan.
        manifest: of the bundle.
        plan: None for ONNX Runtime.
    """
    contract = manifest.contract
    max_batch = manifest.max_batch if plan is None else max(profile.batch[2] for profile in plan.profiles)
    lines = [
        f"name: {_text(name)}",
        f'platform: "{"onnxruntime_onnx" if plan is None else "tensorrt_plan"}"',
        f"max_batch_size: {max_batch}",
        _tensors("input", contract.inputs(graph), precision),
        _tensors("output", contract.outputs(graph), precision),
    ]
    if plan is not None:
        indices = ", ".join(f'"{index}"' for index in range(len(plan.profiles)))
        edges = [str(profile.points[2]) for profile in plan.profiles if profile.points is not None]
        if edges:
            lines.insert(0, f"# Points come as {' or '.join(edges)} in a request: pad them to the next of these.")
        lines.append(f"instance_group [ {{ count: 1 kind: KIND_GPU profile: [ {indices} ] }} ]")
    if graph == "encoder" and max_batch > 1:
        lines.append("dynamic_batching { }")
    return "\n".join(lines) + "\n"


def _tensors(kind: str, specs: Iterable[TensorSpec], precision: str) -> str:
    """Inputs or outputs. Triton adds the batch to `dims` by itself."""
    rows = []
    for spec in specs:
        dtype = DTYPES[precision] if spec.dtype == "graph" else spec.dtype
        dims = ", ".join("-1" if isinstance(dim, str) else str(dim) for dim in spec.shape[1:])
        rows.append(f"  {{ name: {_text(spec.name)} data_type: {TYPES[dtype]} dims: [ {dims} ] }}")
    return f"{kind} [\n" + ",\n".join(rows) + "\n]"


def _parameters(values: Mapping[str, str]) -> str:
    rows = (f"  {{ key: {_text(key)} value: {{ string_value: {_text(value)} }} }}" for key, value in values.items())
    return "parameters [\n" + ",\n".join(rows) + "\n]\n"


def _text(value: str) -> str:
    """A string literal of protobuf's text format, whose escapes are those of JSON for printable ASCII."""
    return json.dumps(value)
