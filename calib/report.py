"""What a calibration tells people: the policy file and the table on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console, JustifyMethod
from rich.table import Table

from calib.choose import Calibration, Settings, as_dict, finite
from calib.samples import Sample, as_export_takes_them
from export.calibration import CalibrationSet
from export.graphs import GraphOptions
from export.pipeline import Source
from export.policy import policy_document
from export.publish import tool_versions
from spd.bundle.contract import QUANTISED
from spd.config import preset_name

ROWS = 10
"""Most rows of a part of the table."""


def document(
    calibration: Calibration,
    settings: Settings,
    source: Source,
    options: GraphOptions,
    photos: CalibrationSet,
    samples: Sequence[Sample],
    seed: int,
) -> dict[str, Any]:
    """The policy file: what `spd-export --policy` reads, and for people what it was chosen from."""
    order = sorted(calibration.errors, key=lambda unit: -calibration.errors[unit].mean)
    ranges = asdict(as_export_takes_them(photos).record) if settings.precision in QUANTISED else None
    return policy_document(
        calibration.policy,
        precision=settings.precision,
        calibration=ranges,
        why=calibration.kept,
        result={
            "with_policy": as_dict(calibration.result),
            "without_policy": as_dict(calibration.without),
            "tolerance": asdict(settings.tolerance),
        },
        rules={
            "headroom": settings.headroom,
            "largest_magnitude": settings.limit,
            "error_of_one_module": asdict(settings.module_tolerance),
        },
        network={
            "preset": preset_name(source.model.config),
            "checkpoint": source.checkpoint,
            "weights_sha256": source.weights_sha256,
        },
        inputs={
            "size": [options.height, options.width],
            "images": [sample.name for sample in samples],
            "points": samples[0].points.shape[1],
            "seed": seed,
            "images_for_modules": min(settings.error_samples, len(samples)),
        },
        tools=tool_versions(),
        uncured=list(calibration.uncured),
        modules=[{"module": unit, **as_dict(calibration.errors[unit])} for unit in order],
        tensors=[
            {
                "tensor": tensor.name,
                "largest": finite(tensor.largest),
                "beyond_float16": tensor.share_beyond,
                "below_float16_normal": tensor.share_below,
            }
            for tensor in calibration.ranges.tensors
        ],
    )


def summarise(calibration: Calibration, settings: Settings, console: Console) -> None:
    """Print which modules are kept and why, the worst modules and tensors, and whether the network passes."""
    kept = calibration.kept
    for wide, names in (("float32", calibration.float32), (settings.wide, calibration.policy.unquantised_modules)):
        if names:
            rows = [(name, kept[name]) for name in names]
            console.print(_table(f"stay {wide} in {settings.precision}", ("module", "why"), rows, justify="left"))
    if not kept:
        islands = f"No module needs to stay {settings.wide} besides the islands that every graph has."
        console.print(islands, soft_wrap=True)
    errors = sorted(calibration.errors.items(), key=lambda item: -item[1].mean)[:ROWS]
    rows_of_errors = [(unit, f"{error.mean:.1e}", f"{error.max:.1e}") for unit, error in errors]
    console.print(_table("error of a module alone", ("module", "mean", "largest"), rows_of_errors))
    tensors = sorted(calibration.ranges.tensors, key=lambda tensor: -tensor.largest)[:ROWS]
    if tensors:
        cells = [(t.name, f"{t.largest:.3g}", f"{t.share_beyond:.2%}", f"{t.share_below:.2%}") for t in tensors]
        console.print(_table("largest tensors", ("tensor", "largest", "> 65504", "< 6.1e-5"), cells))
    for what in calibration.uncured:
        console.print(f"No module can keep this in float32: {what}", soft_wrap=True)
    for name, error in (("without a policy", calibration.without), ("with this policy", calibration.result)):
        verdict = "passes" if error.within(settings.tolerance) else "fails"
        console.print(
            f"{settings.precision} {name}: largest error {error.max:.1e} (at most {settings.tolerance.max:g}), "
            f"mean {error.mean:.1e} (at most {settings.tolerance.mean:g}): {verdict}",
            soft_wrap=True,
            highlight=False,
        )


def _table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], justify: JustifyMethod = "right"
) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(columns[0], overflow="fold")
    for column in columns[1:]:
        table.add_column(column, justify=justify, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table
