"""The choice of a policy: what overflows, what errs too much alone, and what else the whole network needs."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from calib.eight_bits import EightBits
from calib.forms import FloatForm, outermost
from calib.lowering import DepthError, Lowering
from calib.ranges import Ranges, measure_ranges
from calib.samples import Sample, as_export_takes_them
from export.calibration import CalibrationSet
from export.graphs import GraphOptions, torch_dtype
from export.policy import Policy
from spd.bundle.contract import QUANTISED
from spd.bundle.gate import TOLERANCES, Tolerance
from spd.commands.progress import Phases
from spd.models import SPD

HEADROOM = 4.0
"""Tensors within this factor of overflowing stay float32: calibration does not see every photo."""
ERROR_SAMPLES = 4
"""Images on which modules are measured one by one; every one costs a run of the network for each module."""
ROUNDS = 8
"""Most modules that are added because the whole network errs too much."""


@dataclass(frozen=True)
class Settings:
    """What a calibration shall do."""

    precision: str = "fp16"
    """fp16, bf16, or one of `calib.eight_bits.ROUNDING`."""
    max_error: float = TOLERANCES["fp16"].max / 2
    """Largest relative depth error that one module may cause; its mean may be the same share of the gate's."""
    headroom: float = HEADROOM
    error_samples: int = ERROR_SAMPLES

    @property
    def tolerance(self) -> Tolerance:
        """What the parity gate allows the whole network."""
        return TOLERANCES[self.precision]

    @property
    def module_tolerance(self) -> Tolerance:
        """What one module alone may cause."""
        return Tolerance(self.max_error, self.tolerance.mean * self.max_error / self.tolerance.max)

    @property
    def dtype(self) -> torch.dtype:
        """Of what has no 8 bits."""
        return torch_dtype(self.precision)

    @property
    def limit(self) -> float:
        """Largest magnitude that a tensor may have in the precision."""
        return torch.finfo(self.dtype).max / self.headroom

    @property
    def wide(self) -> str:
        """What modules that are kept for their error are computed in."""
        return "float32" if self.precision not in QUANTISED else str(self.dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Calibration:
    """A policy and what it was chosen from."""

    kept: dict[str, str]
    """Modules that are not lowered, and why."""
    ranges: Ranges
    errors: dict[str, DepthError]
    """Each module alone in the low precision."""
    without: DepthError
    """The whole network in the low precision without the policy."""
    result: DepthError
    """The same with it."""
    uncured: tuple[str, ...]
    """Tensors beyond the limit that no module keeps in float32."""

    float32: tuple[str, ...]
    """Those of the modules kept that are float32; the others have the type of what has no 8 bits."""

    @property
    def policy(self) -> Policy:
        """The modules, without their reasons."""
        return Policy(self.float32, tuple(name for name in self.kept if name not in self.float32))


def calibrate(
    model: SPD,
    options: GraphOptions,
    photos: CalibrationSet,
    samples: Sequence[Sample],
    settings: Settings,
    phases: Phases,
) -> Calibration:
    """Choose the smallest modules that must not be lowered; whether that is enough is in `Calibration.result`.

    Args:
        model: the network.
        options: the size of its images.
        photos: what the ranges of 8-bit products are measured on.
        samples: what is run.
        settings: the precision and its limits.
        phases: tells people how far it is.

    Raises:
        ExportError: the model's depth is not finite in float32.
    """
    form = _form(model, options, photos, settings, phases)
    with phases(f"running {len(samples)} images in float32"):
        lowering = Lowering(form, samples)
    ranges, overflowing, uncured = Ranges((), {}), dict[str, str](), tuple[str, ...]()
    if settings.dtype != torch.float32:
        with phases("looking at the range of every tensor"):
            ranges = measure_ranges(model, options, samples, constant_weights=isinstance(form, EightBits))
        overflowing, uncured = _out_of_range(ranges, settings)
    with phases(f"running all of it in {settings.precision}") as tick:
        start = time.monotonic()
        without = lowering.whole((), tick)
        each = (time.monotonic() - start) / len(samples)
    kept = overflowing
    if isinstance(form, EightBits):
        form.float32_modules, kept = tuple(overflowing), {}
    count = min(settings.error_samples, len(samples))
    estimate = each * count * len(lowering.units)
    with phases(f"lowering {len(lowering.units)} modules one by one on {count} images, up to {estimate:.0f} s") as tick:
        errors = lowering.each_alone(kept, count, tick)
    for unit, error in errors.items():
        if not error.within(settings.module_tolerance):
            with phases(f"looking for the cause inside {unit}"):
                culprit = _smallest_culprit(lowering, unit, kept, settings)
                kept = _add_kept(kept, culprit, f"alone errs by {error.mean:.2g}, at one point by {error.max:.2g}")
    result = without
    if count := len({**overflowing, **kept}):
        with phases(f"running all of it with {count} modules kept") as tick:
            result = lowering.whole(kept, tick)
    kept, result = _keep_more_until_it_passes(lowering, errors, kept, result, settings, phases)
    if isinstance(form, EightBits):
        kept, float32 = {**overflowing, **kept}, tuple(overflowing)
    else:
        float32 = tuple(kept)
    return Calibration(kept, ranges, errors, without, result, uncured, float32)


def _form(
    model: SPD, options: GraphOptions, photos: CalibrationSet, settings: Settings, phases: Phases
) -> FloatForm | EightBits:
    if settings.precision not in QUANTISED:
        return FloatForm(model, settings.dtype, options)
    with phases("looking at what products read") as tick:
        return EightBits(model, settings.precision, options, as_export_takes_them(photos), tick)


def _out_of_range(ranges: Ranges, settings: Settings) -> tuple[dict[str, str], tuple[str, ...]]:
    """The modules that keep every tensor within the limit, and the tensors for which there is none."""
    kept: dict[str, str] = {}
    uncured = []
    for tensor in sorted(ranges.tensors, key=lambda tensor: -tensor.largest):
        if tensor.largest <= settings.limit:
            break
        what = f"{tensor.name} reaches {tensor.largest:.3g}"
        cure = ranges.cure(tensor, settings.limit)
        if cure is None:
            uncured.append(what)
        else:
            kept.setdefault(cure, what)
    return {name: kept[name] for name in outermost(kept)}, tuple(uncured)


def _smallest_culprit(lowering: Lowering, unit: str, kept: dict[str, str], settings: Settings) -> str:
    """The smallest module inside a unit that, not lowered, brings the unit's error within what it may cause."""
    for inner in lowering.inside(unit):
        if inner in kept:
            continue
        error = lowering.alone(unit, [*kept, inner], settings.error_samples)
        if error.within(settings.module_tolerance):
            return inner
    return unit


def _keep_more_until_it_passes(
    lowering: Lowering,
    errors: dict[str, DepthError],
    kept: dict[str, str],
    result: DepthError,
    settings: Settings,
    phases: Phases,
) -> tuple[dict[str, str], DepthError]:
    """Add the module with the largest error of its own until the whole network is within the tolerance."""
    left = sorted((unit for unit in errors if unit not in kept), key=lambda unit: errors[unit].mean)
    for _ in range(ROUNDS):
        if result.within(settings.tolerance) or not left:
            break
        unit = left.pop()
        kept = _add_kept(kept, unit, f"largest error of those left, {errors[unit].mean:.2g}")
        with phases(f"running all of it with {unit} kept too") as tick:
            result = lowering.whole(kept, tick)
    return kept, result


def _add_kept(kept: dict[str, str], name: str, why: str) -> dict[str, str]:
    """Keep one more module, and none inside it any longer."""
    more = {**kept, name: why}
    return {name: more[name] for name in outermost(more)}


def finite(value: float) -> float | str:
    """A number that JSON can hold, or "infinite"."""
    return value if math.isfinite(value) else "infinite"


def as_dict(error: DepthError) -> dict[str, Any]:
    """For the policy file."""
    return {"max_error": finite(error.max), "mean_error": finite(error.mean)}
