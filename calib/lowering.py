"""The depth error that modules cause when they are computed in a lower precision, all else in float32."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from calib.forms import Form, Pair, outermost, submodule
from calib.samples import Sample
from spd.bundle.gate import Tolerance
from spd.errors import ExportError


@dataclass(frozen=True)
class DepthError:
    """Relative depth errors; infinite where a depth is not a number."""

    max: float
    """Largest of all points."""
    mean: float
    """Mean of the worst image."""

    def within(self, tolerance: Tolerance) -> bool:
        """Whether both errors are allowed."""
        return self.max <= tolerance.max and self.mean <= tolerance.mean

    @classmethod
    def worst(cls, errors: Sequence[DepthError]) -> DepthError:
        """Of several images."""
        return cls(max(error.max for error in errors), max(error.mean for error in errors))


class Lowering:
    """One model over samples, in float32 and with any of its modules in a lower precision."""

    def __init__(self, form: Form, samples: Sequence[Sample]) -> None:
        """Run the model in float32.

        Raises:
            ExportError: a depth is not finite in float32.
        """
        self._form, self._samples = form, samples
        self._exact = form.exact()
        self.lowerable = form.lowerable
        """Modules that a policy may name and that the precision changes, by their path."""
        self.units = outermost(self.lowerable)
        """Those of them that lie in no other."""
        self._caches: list[tuple[Tensor, ...]] = []
        self._depths: list[Tensor] = []
        for sample in samples:
            cache = _encode(self._exact, sample)
            depth = _decode(self._exact, cache, sample)
            if not bool(depth.isfinite().all()):
                raise ExportError(
                    f"{sample.name}: the model's depth is not finite in float32 either; check the checkpoint's weights"
                )
            self._caches.append(cache)
            self._depths.append(depth)

    def inside(self, unit: str) -> list[str]:
        """Modules inside a unit that a policy may name, the smallest first."""
        paths = [name for name in self.lowerable if name.startswith(f"{unit}.")]
        return sorted(paths, key=lambda name: sum(p.numel() for p in self._submodule(name).parameters()))

    def whole(self, kept: Collection[str], tick: Callable[[float], None]) -> DepthError:
        """Error of the whole network in the lower precision, but for the modules kept."""
        graphs = self._form.lowered(kept)
        errors = []
        for i, sample in enumerate(self._samples):
            tick(i / len(self._samples))
            with _products_rounded_once():
                errors.append(_depth_error(graphs, _encode(graphs, sample), sample, self._depths[i]))
        return DepthError.worst(errors)

    def alone(self, unit: str, kept: Collection[str], most: int) -> DepthError:
        """Error of one unit in the lower precision, without those `kept` inside it, over the first `most` samples."""
        graph, _, path = unit.partition(".")
        errors = []
        with self._lowered(graph, path, self._form.units([unit], kept)[unit]):
            for i, sample in enumerate(self._samples[:most]):
                errors.append(self._run(graph, i, sample))
        return DepthError.worst(errors)

    def each_alone(self, kept: Collection[str], most: int, tick: Callable[[float], None]) -> dict[str, DepthError]:
        """As `alone`, for every unit that is not kept itself.

        What comes before the unit in the encoder is not computed again: its outputs are remembered, image by image.
        """
        low = self._form.units([unit for unit in self.units if unit not in kept], kept)
        samples = self._samples[:most]
        errors: dict[str, list[DepthError]] = {unit: [] for unit in low}
        for i, sample in enumerate(samples):
            outputs = self._outputs(sample)
            with ExitStack() as before:
                # The encoder's units in the order in which they run, then the decoder's, which start from the cache.
                for count, unit in enumerate([*outputs, *(unit for unit in self.units if unit not in outputs)]):
                    tick((i + count / len(self.units)) / len(samples))
                    graph, _, path = unit.partition(".")
                    if unit in low:
                        with self._lowered(graph, path, low[unit]):
                            errors[unit].append(self._run(graph, i, sample))
                    if unit in outputs:
                        before.enter_context(self._lowered(graph, path, _Remembered(outputs[unit])))
        return {unit: DepthError.worst(found) for unit, found in errors.items()}

    def _run(self, graph: str, i: int, sample: Sample) -> DepthError:
        with _products_rounded_once():
            cache = _encode(self._exact, sample) if graph == "encoder" else self._caches[i]
            return _depth_error(self._exact, cache, sample, self._depths[i])

    def _outputs(self, sample: Sample) -> dict[str, Tensor]:
        """What the encoder's units give, in the order in which they run."""
        outputs: dict[str, Tensor] = {}

        def keep(unit: str) -> Any:
            return lambda _module, _inputs, output: outputs.update({unit: output})

        with ExitStack() as hooks:
            for unit in self.units:
                if unit.startswith("encoder."):
                    hooks.callback(self._submodule(unit).register_forward_hook(keep(unit)).remove)
            _encode(self._exact, sample)
        return outputs

    @contextmanager
    def _lowered(self, graph: str, path: str, module: nn.Module) -> Iterator[None]:
        """Another module in place of one of the float32 form, for a while."""
        original = self._exact[graph].get_submodule(path)
        self._exact[graph].set_submodule(path, module)
        try:
            yield
        finally:
            self._exact[graph].set_submodule(path, original)

    def _submodule(self, name: str) -> nn.Module:
        return submodule(self._exact, name)


class _Remembered(nn.Module):
    """Gives what a module gave before."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, *_: Tensor) -> Tensor:
        return self.output


class _ProductsInFloat32(TorchDispatchMode):
    """Low-precision products multiply in float32 and round once, as tensor cores do and as `export.evaluate` does.

    On a CPU torch's float16 products take 20 to 60 times as long, and their accumulation is not specified.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        low = args and isinstance(args[0], Tensor) and args[0].dtype in (torch.float16, torch.bfloat16)
        if not low or func.overloadpacket.__name__ not in ("matmul", "conv2d"):
            return func(*args, **(kwargs or {}))
        wide = (x.float() if isinstance(x, Tensor) else x for x in args)
        return func(*wide, **(kwargs or {})).to(args[0].dtype)


def _products_rounded_once() -> TorchDispatchMode:
    return _ProductsInFloat32()  # type: ignore[no-untyped-call]


@torch.inference_mode()
def _encode(graphs: Pair, sample: Sample) -> tuple[Tensor, ...]:
    cache: tuple[Tensor, ...] = graphs["encoder"](sample.image)
    return cache


@torch.inference_mode()
def _decode(graphs: Pair, cache: tuple[Tensor, ...], sample: Sample) -> Tensor:
    (depth,) = graphs["decoder"](*cache, sample.points)
    assert isinstance(depth, Tensor)
    return depth


def _depth_error(graphs: Pair, cache: tuple[Tensor, ...], sample: Sample, expected: Tensor) -> DepthError:
    try:
        depth = _decode(graphs, cache, sample)
    except IndexError:  # learned offsets that are NaN point to no row of the map
        return DepthError(math.inf, math.inf)
    error = (depth.double() / expected.double() - 1).abs().nan_to_num(nan=math.inf)
    return DepthError(float(error.max()), float(error.mean()))
