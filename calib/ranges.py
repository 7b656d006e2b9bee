"""How large every tensor of the low-precision graphs gets, also inside modules, and which module must stay float32.

The deployment form runs with float32 in place of the graph's dtype and float64 in place of its float32 islands, so
a tensor's dtype tells whether float16 or bfloat16 would hold it. Only what it would hold is recorded.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from calib.samples import Sample
from export.decoder import DeployedDecoder
from export.encoder import DeployedEncoder
from export.graphs import GraphOptions
from export.layers import Precision
from export.policy import lowerable_modules
from spd.models import SPD

BULK = Precision(graph=torch.float32, wide=torch.float64, for_gpu=True)

FLOAT16 = torch.finfo(torch.float16)
"""`max` is 65504; below `tiny`, 6.1e-5, its numbers have fewer than 11 bits."""

# Operators that compute no new value, besides views.
_MOVES = {"cat", "embedding", "pad"}
# torch's names of what ONNX calls otherwise; the others begin with a capital there.
_ONNX = {"matmul": "MatMul", "conv2d": "Conv", "layer_norm": "LayerNormalization", "to": "Cast"}


@dataclass
class TensorRange:
    """What was seen of one tensor, over all samples."""

    module: str
    """Path of the innermost module that computes it, such as `encoder.stages.0.blocks.1.fc1`."""
    operator: str
    """What computes it, by its ONNX name, or the name of a weight."""
    largest: float = 0.0
    """Largest magnitude."""
    count: int = 0
    non_zero: int = 0
    beyond: int = 0
    below: int = 0

    @property
    def name(self) -> str:
        """Module and operator."""
        return f"{self.module}/{self.operator}"

    def add(self, x: Tensor) -> None:
        """Count the values of one more tensor."""
        size = x.abs()
        largest = _largest(size)
        non_zero = int(size.count_nonzero())
        self.largest = max(self.largest, largest)
        self.count += size.numel()
        self.non_zero += non_zero
        self.below += int((size < FLOAT16.tiny).sum()) - (size.numel() - non_zero)
        if largest > FLOAT16.max:
            self.beyond += int((~(size <= FLOAT16.max)).sum())

    @property
    def share_beyond(self) -> float:
        """Share of values that float16 would make infinite."""
        return self.beyond / max(self.count, 1)

    @property
    def share_below(self) -> float:
        """Share of the values but zeros that are below float16's normal range."""
        return self.below / max(self.non_zero, 1)


@dataclass(frozen=True)
class Ranges:
    """What was seen of all tensors."""

    tensors: tuple[TensorRange, ...]
    """In the order in which they are computed."""
    outputs: Mapping[str, float]
    """Largest magnitude of what each module that a policy may name gives to the next."""

    def cure(self, tensor: TensorRange, limit: float) -> str | None:
        """The smallest module that, in float32, keeps a tensor out of the low precision.

        What a float32 module gives is cast back, so that must be within the limit. None if there is no such module.
        """
        around = [
            path
            for path, largest in self.outputs.items()
            if largest <= limit and f"{tensor.module}.".startswith(f"{path}.")
        ]
        return max(around, key=len, default=None)


def measure_ranges(
    model: SPD, options: GraphOptions, samples: Iterable[Sample], *, constant_weights: bool = False
) -> Ranges:
    """Run the deployment form over the samples and look at every tensor that the graph's dtype would hold.

    With `constant_weights` that is the form below 8-bit graphs.
    """
    precision = replace(BULK, constant_weights=constant_weights)
    encoder = DeployedEncoder(model, precision).eval()
    decoder = DeployedDecoder(model, options.height, options.width, precision).eval()
    watch = _Watch({"encoder": encoder, "decoder": decoder})
    with ExitStack() as hooks, torch.inference_mode():
        watch.attach(hooks.callback)
        for sample in samples:
            points = sample.points.double()  # coordinates are an island
            with watch:
                decoder(*encoder(sample.image), points)
            watch.seen.clear()
    return Ranges(tuple(watch.tensors.values()), watch.outputs)


class _Watch(TorchDispatchMode):
    """Sees what every operator gives while it is entered, and knows in which module."""

    def __init__(self, graphs: Mapping[str, nn.Module]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.graphs = graphs
        self.tensors: dict[str, TensorRange] = {}
        self.outputs: dict[str, float] = {}
        self.seen: Counter[tuple[str, str]] = Counter()
        self._inside: list[str] = []
        self._paused = False
        for graph, module in graphs.items():
            for path, parameter in module.named_parameters(prefix=graph):
                owner, _, name = path.rpartition(".")
                self._record(owner, name, parameter.data)

    def attach(self, on_exit: Callable[..., object]) -> None:
        """Follow the modules' calls; `on_exit` is told how to stop."""
        for graph, module in self.graphs.items():
            lowerable = {f"{graph}.{path}" for path in lowerable_modules(module)}
            for path, submodule in module.named_modules(prefix=graph):
                on_exit(submodule.register_forward_pre_hook(self._enter(path)).remove)
                on_exit(submodule.register_forward_hook(self._leave(path, path in lowerable)).remove)

    def _enter(self, path: str) -> Callable[..., None]:
        return lambda *_: self._inside.append(path)

    def _leave(self, path: str, lowerable: bool) -> Callable[..., None]:
        def leave(_module: nn.Module, _inputs: object, output: Any) -> None:
            self._inside.pop()
            if lowerable:
                self._paused = True
                self.outputs[path] = max(self.outputs.get(path, 0.0), _largest(output))
                self._paused = False

        return leave

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        # torch calls a cast a view, as it gives its input back if the dtype is the same.
        computes = result is not args[0] if name == "to" else not func.is_view and name not in _MOVES
        if computes and not self._paused and isinstance(result, Tensor):
            self._record(self._inside[-1], _ONNX.get(name, name.capitalize()), result)
        return result

    def _record(self, module: str, operator: str, value: Tensor) -> None:
        if value.dtype != BULK.graph:
            return
        self.seen[module, operator] += 1
        if self.seen[module, operator] > 1:
            operator = f"{operator}_{self.seen[module, operator]}"
        self.tensors.setdefault(f"{module}/{operator}", TensorRange(module, operator)).add(value)


def _largest(x: Tensor) -> float:
    """Largest magnitude; infinity if there is a NaN."""
    value = float(x.abs().max()) if x.numel() else 0.0
    return math.inf if math.isnan(value) else value
