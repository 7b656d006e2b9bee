"""The two ONNX graphs: traced from the deployment form, made small and readable (design 3, 4)."""

from __future__ import annotations

import ast
import warnings
from collections import Counter
from dataclasses import dataclass, field, replace

import onnx_ir as ir
import onnx_ir.passes.common as passes
import torch
from torch import Tensor, nn

from export.decoder import DeployedDecoder
from export.encoder import DeployedEncoder
from export.interface import interface_fault
from export.layers import Precision
from export.policy import Policy, check_policy, compute_in, lowerable_modules
from spd.bundle import GRAPHS
from spd.bundle.contract import DTYPES, QUANTISED, TensorSpec, contract
from spd.errors import ExportError
from spd.models import SPD
from spd.version import __version__

DEFAULT_OPSET = 20
"""The first opset in which GELU is one node."""

LEAST_OPSETS = {"bf16": 22, "int8-fp16": 19, "fp8": 21}
"""The first opsets whose Conv takes bfloat16, whose scales may be float16, and in which a Transpose takes float8.

The graph has no such Transpose, but ONNX Runtime moves one between a pair.
"""

IR_VERSION = 10
"""ONNX IR version, the one of opset 21: read by ONNX Runtime from 1.18 on."""

# Traced at 2 images and 3 points: a size of 1 would be burnt into the graph.
TRACE_BATCH, TRACE_POINTS = 2, 3


@dataclass(frozen=True)
class Limits:
    """Largest sizes of the dynamic dimensions."""

    max_points: int = 4096
    max_batch: int = 8


@dataclass(frozen=True)
class GraphPair:
    """Both graphs in one precision."""

    encoder: ir.Model
    decoder: ir.Model


def torch_dtype(precision: str) -> torch.dtype:
    """The torch dtype of what the graphs of a precision do not quantise."""
    dtype = getattr(torch, DTYPES[precision])
    assert isinstance(dtype, torch.dtype)
    return dtype


@dataclass(frozen=True)
class GraphOptions:
    """What the graphs shall be, besides their precision."""

    height: int = 480
    """Height of the encoder's image, pixels."""
    width: int = 640
    """Width of the encoder's image, pixels."""
    limits: Limits = field(default_factory=Limits)
    opset: int = DEFAULT_OPSET
    """ONNX opset of the graphs."""
    with_routes: bool = False
    """Give the decoder the second output `routes`."""
    policy: Policy = field(default_factory=Policy)
    """Modules that keep more bits than the others."""


def deployed(
    model: SPD,
    dtype: torch.dtype,
    options: GraphOptions,
    *,
    for_gpu: bool | None = None,
    constant_weights: bool = False,
) -> tuple[DeployedEncoder, DeployedDecoder]:
    """The deployment form of a model in a dtype; the other arguments are as in `Precision`.

    Modules that the policy keeps in float32 are, where the form has them.
    """

    def build(types: Precision) -> tuple[DeployedEncoder, DeployedDecoder]:
        return (
            DeployedEncoder(model, types).eval(),
            DeployedDecoder(model, options.height, options.width, types, options.with_routes).eval(),
        )

    precision = Precision.of(dtype, for_gpu=for_gpu, constant_weights=constant_weights)
    encoder, decoder = build(precision)
    if options.policy.float32_modules and dtype in (torch.float16, torch.bfloat16):
        exact = build(replace(precision, graph=torch.float32))
        for graph, module, other in zip(GRAPHS, (encoder, decoder), exact, strict=True):
            there = {*lowerable_modules(module)}
            compute_in(module, other, [p for p in options.policy.of(graph) if p in there], torch.float32, dtype)
    return encoder, decoder


def check_policy_fits(model: SPD, options: GraphOptions) -> None:
    """Refuse a policy that names modules which neither the form for GPUs nor that for CPUs has.

    Raises:
        ExportError: names one of them.
    """
    if options.policy == Policy():
        return
    plain = replace(options, policy=Policy())
    known: set[str] = set()
    for for_gpu in (True, False):
        for graph, module in zip(GRAPHS, deployed(model, torch.float32, plain, for_gpu=for_gpu), strict=True):
            known.update(f"{graph}.{path}" for path in lowerable_modules(module))
    check_policy(options.policy, known)


def build_graphs(model: SPD, precision: str, options: GraphOptions) -> GraphPair:
    """Trace both graphs of a model; those of a quantised precision still without quantisation.

    Raises:
        ExportError: torch cannot trace the model, or a dimension that must be dynamic is not.
    """
    tensors = contract(model.config, options.height, options.width, options.with_routes)
    dtype, limits, opset = torch_dtype(precision), options.limits, options.opset
    encoder, decoder = deployed(model, dtype, options, constant_weights=precision in QUANTISED)
    encoder_ir = _trace(encoder, "spd_encoder", tensors.encoder_inputs, tensors.encoder_outputs, dtype, limits, opset)
    decoder_ir = _trace(decoder, "spd_decoder", tensors.decoder_inputs, tensors.decoder_outputs, dtype, limits, opset)
    return GraphPair(encoder_ir, decoder_ir)


def example(spec: TensorSpec, dtype: torch.dtype, batch: int, points: int = TRACE_POINTS) -> Tensor:
    """Zeros with the shape and dtype of a graph input."""
    return torch.zeros(
        spec.resolved(batch, points), dtype=dtype if spec.dtype == "graph" else getattr(torch, spec.dtype)
    )


def _trace(
    module: nn.Module,
    name: str,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    dtype: torch.dtype,
    limits: Limits,
    opset: int,
) -> ir.Model:
    dims = {
        "B": torch.export.Dim("B", min=1, max=max(limits.max_batch, TRACE_BATCH)),
        "K": torch.export.Dim("K", min=1, max=max(limits.max_points, TRACE_POINTS)),
    }
    dynamic = [{axis: dims[dim] for axis, dim in enumerate(spec.shape) if isinstance(dim, str)} for spec in inputs]
    args = tuple(example(spec, dtype, TRACE_BATCH) for spec in inputs)
    with warnings.catch_warnings():
        # torch warns of its own deprecations, and that inputs share the dimension B, as the contract says.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            args,
            dynamo=True,
            opset_version=opset,
            input_names=[spec.name for spec in inputs],
            output_names=[spec.name for spec in outputs],
            # A module that takes *args has one parameter, so the shapes are one tuple within the tuple.
            dynamic_shapes=(tuple(dynamic),) if len(inputs) > 1 else tuple(dynamic),
            verbose=False,
        )
    assert program is not None
    model = program.model
    _tidy(model, name)
    if fault := interface_fault(model, inputs, outputs, str(dtype).removeprefix("torch.")):
        raise ExportError(f"{name}: {fault}: tracing lost it")
    return model


def _tidy(model: ir.Model, name: str) -> None:
    """Share what is equal, drop what is dead, name nodes by their place in the model, drop traces of this machine."""
    _name_by_scope(model)
    unlimited = 1 << 40
    for tidy in (
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.CommonSubexpressionEliminationPass(),
        passes.DeduplicateInitializersPass(size_limit=unlimited),
        passes.IdentityEliminationPass(),
        passes.RemoveUnusedNodesPass(),
        passes.TopologicalSortPass(),
        passes.ClearMetadataAndDocStringPass(),
    ):
        tidy(model)
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version = "spd-depth", __version__
    model.graph.name = name
    for value in model.graph.initializers.values():
        value.metadata_props.clear()  # the pass above leaves torch's notes on initialisers


def _name_by_scope(model: ir.Model) -> None:
    """Call nodes and their outputs `b2/layers/0/ffn/fc1/MatMul`, and initialisers by their parameter's path."""
    graph_outputs = set(model.graph.outputs)
    seen: Counter[str] = Counter()
    for node in model.graph:
        # torch notes the module paths, outermost first: "['', 'b2', 'b2.layers.0', 'matmul']".
        scopes = ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]"))
        scope = scopes[-2] if len(scopes) > 1 else ""
        if scope.startswith("_"):  # sizes of the inputs, which torch puts in a scope of its own
            scope = "shape"
        base = "/".join([*scope.split("."), node.op_type]) if scope else node.op_type
        seen[base] += 1
        node.name = base if seen[base] == 1 else f"{base}_{seen[base]}"
        for i, output in enumerate(node.outputs):
            if output not in graph_outputs:
                output.name = node.name if i == 0 else f"{node.name}:{i}"
