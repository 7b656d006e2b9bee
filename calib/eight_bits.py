"""The deployment form with products in 8 bits, as `export.quantise` has them written into the graphs.

A quantised product reads its activation and its weights rounded to 8 bits, multiplies them exactly, and gives its
result in the graph's own type. The scales are those of the quantiser: one for each activation, from the smallest and
the largest value over the calibration set, and one for each output channel of the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Any

import torch
from torch import Tensor, nn

from calib.forms import Form, Pair, all_lowerable, inside_any, submodule
from export.calibration import CalibrationSet
from export.float8 import LARGEST, LEAST_SCALE
from export.graphs import GraphOptions, deployed, torch_dtype
from export.layers import Dense
from export.policy import Policy
from export.quantise import LEAST_RANGE, float_modules
from spd.bundle import GRAPHS
from spd.bundle.contract import QUANTISED
from spd.models import SPD

Ends = tuple[float, float]
"""Smallest and largest value of an activation; the range that they span has 0 in it."""


@dataclass(frozen=True)
class Rounding:
    """How the numbers of one precision are rounded."""

    half_range: float
    """Steps from 0 to the end of an activation's range."""
    least_range: float = 0.0
    """Least distance between the ends of a range."""
    lowest: int = -128
    highest: int = 127

    def activation(self, x: Tensor, ends: Ends) -> Tensor:
        """Values as a product reads them, in their own type."""
        low, high = map(torch.tensor, ends)
        scale = (self._reach(low, high) / self.half_range).to(x.dtype).float()
        return ((x.float() / scale).round().clamp(self.lowest, self.highest) * scale).to(x.dtype)

    def weight(self, weight_io: Tensor) -> Tensor:
        """Weights [in, out] as a product reads them, in their own type."""
        wide = weight_io.float()
        reach_o = self._reach(wide.amin(dim=0).clamp(max=0), wide.amax(dim=0).clamp(min=0))
        scale_o = torch.where(reach_o > 0, reach_o / 127, 1.0).to(weight_io.dtype).float()
        return ((wide / scale_o).round().clamp(-127, 127) * scale_o).to(weight_io.dtype)

    def _reach(self, low: Tensor, high: Tensor) -> Tensor:
        return torch.maximum(-low, torch.maximum(high, low + self.least_range))


class Float8Rounding(Rounding):
    """float8 e4m3, as `export.float8` writes it."""

    def activation(self, x: Tensor, ends: Ends) -> Tensor:
        """As in `Rounding`."""
        low, high = map(torch.tensor, ends)
        return self._rounded(x, self._reach(low, high))

    def weight(self, weight_io: Tensor) -> Tensor:
        """As in `Rounding`."""
        return self._rounded(weight_io, weight_io.float().abs().amax(dim=0))

    def _rounded(self, x: Tensor, reach: Tensor) -> Tensor:
        scale = (reach / LARGEST).clamp(min=LEAST_SCALE).to(x.dtype).float()
        return ((x.float() / scale).clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn).float() * scale).to(x.dtype)


ROUNDING = {
    "int8": Rounding(127.5),
    "int8-fp16": Rounding(127.0, LEAST_RANGE),
    "fp8": Float8Rounding(127.0, LEAST_RANGE),
}
"""By precision: uint8 around 128 for CPUs, int8 around 0 and float8 for TensorRT."""


class EightBits(Form):
    """A precision of `ROUNDING`."""

    def __init__(
        self,
        model: SPD,
        precision: str,
        options: GraphOptions,
        calibration: CalibrationSet,
        tick: Callable[[float], None],
    ) -> None:
        """Measure what the products read on the calibration set; `tick` is told the share done."""
        super().__init__(model, options)
        self.float32_modules: tuple[str, ...] = ()
        """Modules that stay float32 in the whole, where all else is float16, as it would overflow."""
        self._dtype, self._rounding = torch_dtype(QUANTISED[precision]), ROUNDING[precision]
        self._ends = self._measured(calibration, tick)

    @property
    def lowerable(self) -> list[str]:
        """As in `Form`: what holds a quantised product."""
        names = all_lowerable(self.exact())
        return [name for name in names if any(inside_any(product, [name]) for product in self._ends)]

    def exact(self) -> Pair:
        """As in `Form`."""
        return self._pair(torch.float32)

    def lowered(self, kept: Collection[str]) -> Pair:
        """As in `Form`; what is kept has the type of the rest."""
        pair = self._pair(self._dtype, self.float32_modules)
        self._quantise(pair, [name for name in self._ends if not inside_any(name, (*kept, *self.float32_modules))])
        return pair

    def units(self, names: Sequence[str], kept: Collection[str]) -> dict[str, nn.Module]:
        """As in `Form`; what is not quantised is float32."""
        pair = self._pair(torch.float32)
        kept = [name for name in kept if name not in names]
        self._quantise(pair, [name for name in self._ends if inside_any(name, names) and not inside_any(name, kept)])
        return {name: submodule(pair, name) for name in names}

    def _pair(self, dtype: torch.dtype, float32_modules: Sequence[str] = ()) -> Pair:
        options = replace(self.options, policy=Policy(tuple(float32_modules)))
        for_gpu = self._dtype != torch.float32
        pair = deployed(self.model, dtype, options, for_gpu=for_gpu, constant_weights=True)
        return dict(zip(GRAPHS, pair, strict=True))

    def _quantise(self, pair: Pair, products: Collection[str]) -> None:
        """Round what products multiply."""
        for name in products:
            dense = submodule(pair, name)
            assert isinstance(dense, Dense)
            dense.weight.data = self._rounding.weight(dense.weight)
            dense.register_forward_pre_hook(self._round_input(self._ends[name]))

    def _round_input(self, ends: Sequence[Ends]) -> Callable[..., Any]:
        """A hook; a module that is called several times in each run has different ends each time."""
        of_next_call = cycle(ends)

        def enter(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (self._rounding.activation(inputs[0], next(of_next_call)), *inputs[1:])

        return enter

    @torch.inference_mode()
    def _measured(self, calibration: CalibrationSet, tick: Callable[[float], None]) -> dict[str, list[Ends]]:
        """For each product that is quantised the ends of what it reads, call by call."""
        pair = self._pair(torch.float32)
        never = float_modules(self.model.config, Policy())
        found: dict[str, list[Ends]] = {}
        seen: dict[str, list[Ends]] = {}

        def look(name: str) -> Callable[..., None]:
            def enter(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
                low, high = inputs[0].aminmax()
                seen.setdefault(name, []).append((min(float(low), 0.0), max(float(high), 0.0)))

            return enter

        with ExitStack() as hooks:
            for graph, module in pair.items():
                for name, layer in module.named_modules(prefix=graph):
                    if isinstance(layer, Dense) and not inside_any(name, never):
                        hooks.callback(layer.register_forward_pre_hook(look(name)).remove)
            for i, image in enumerate(calibration.images):
                tick(i / len(calibration.images))
                points = torch.from_numpy(calibration.points[i : i + 1])
                pair["decoder"](*pair["encoder"](torch.from_numpy(image[None])), points)
                for name, ends in seen.items():
                    before = found.get(name, ends)
                    found[name] = [(min(a, c), max(b, d)) for (a, b), (c, d) in zip(before, ends, strict=True)]
                seen.clear()
        return found
