"""Which tensor of a graph went off first, for the parity gate's messages."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn

from export.decoder import DeployedDecoder
from export.encoder import DeployedEncoder
from export.evaluate import evaluate
from export.layers import Precision
from spd.models import SPD


def first_non_finite(node: ir.Node, results: tuple[Tensor, ...]) -> None:
    """Observer for `evaluate`: raise FloatingPointError at the first NaN or infinity, naming the node."""
    for value, tensor in zip(node.outputs, results, strict=True):
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            kind = "NaN" if bool(tensor.isnan().any()) else "infinity"
            share = 1 - float(tensor.isfinite().double().mean())
            raise FloatingPointError(
                f"{kind} at node {node.name} ({node.op_type}, {value.dtype}), {share:.1%} of its values"
            )


def first_bad_tensor(
    model: SPD, encoder: ir.Model, decoder: ir.Model, images: Tensor, points: Tensor, tolerance: float
) -> str:
    """Compare every module of the float32 deployment form, run in torch, with the tensor of its name in the graphs.

    Args:
        model: the model that the graphs were exported from.
        encoder: graph as read from its file, in any precision.
        decoder: graph as read from its file, in any precision.
        images: uint8 [B, H, W, 3].
        points: float32 [B, K, 2].
        tolerance: relative error (L2 norms) from which a tensor counts as off.

    Returns:
        A phrase that names the first tensor beyond the tolerance, or says that there is none.
    """
    height, width = images.shape[1:3]
    dtype = decoder.graph.inputs[0].dtype
    assert dtype is not None
    form = Precision.of(getattr(torch, str(dtype.numpy())))
    exact = Precision.of(torch.float32, for_gpu=form.for_gpu)
    expected, cache = module_outputs(DeployedEncoder(model, exact), (images,))
    assert isinstance(cache, tuple)
    found = _first_tensor_off(encoder, {"image": images}, expected, tolerance)
    if found is None:
        expected, _ = module_outputs(DeployedDecoder(model, height, width, exact), (*cache, points))
        inputs = {
            str(value.name): tensor.to(getattr(torch, str(value.dtype.numpy())))  # type: ignore[union-attr]
            for value, tensor in zip(decoder.graph.inputs, (*cache, points), strict=True)
        }
        found = _first_tensor_off(decoder, inputs, expected, tolerance)
    if found is None:
        return (
            "no tensor of the graphs is that far from the deployment form run in torch, so the difference is in the "
            "runtime or in the deployment form itself"
        )
    return f"first tensor that went off: {found}"


def module_outputs(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[dict[str, Tensor], object]:
    """Run a module and keep what each submodule gave, by path (`b2/layers/0/ffn`); modules used twice are left out."""
    kept: dict[str, Tensor] = {}
    calls: dict[str, int] = {}

    def keep(path: str) -> Any:
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            calls[path] = calls.get(path, 0) + 1
            if isinstance(output, Tensor):
                kept[path] = output

        return hook

    handles = [
        submodule.register_forward_hook(keep(path.replace(".", "/")))
        for path, submodule in module.named_modules()
        if path
    ]
    try:
        with torch.inference_mode():
            result = module(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return {path: tensor for path, tensor in kept.items() if calls[path] == 1}, result


def _first_tensor_off(
    model: ir.Model, inputs: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float
) -> str | None:
    """Name of the first tensor in the graph's order that differs from its module's output."""
    # A module's output is that of the last node in its scope.
    last = {path: node for node in model.graph for path in _scopes(str(node.name)) if path in expected}
    paths: dict[ir.Node, list[str]] = {}
    for path, node in last.items():
        paths.setdefault(node, []).append(path)
    found: list[str] = []

    def observe(node: ir.Node, results: tuple[Tensor, ...]) -> None:
        for path in paths.get(node, ()):
            if found or results[0].numel() != expected[path].numel():
                continue
            want = expected[path].double().flatten()
            off = float((results[0].double().flatten() - want).norm() / want.norm().clamp_min(1e-30))
            if not off <= tolerance:
                found.append(f"{model.graph.name} {node.name} (output of {path}, relative error {off:.2g})")

    evaluate(model, inputs, observe)
    return found[0] if found else None


def _scopes(name: str) -> list[str]:
    """`b2/layers/0/Add` to b2, b2/layers, b2/layers/0."""
    parts = name.split("/")
    return ["/".join(parts[:i]) for i in range(1, len(parts))]
