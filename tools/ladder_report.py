"""The ladder of presets as a table and as a picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tools.bench.report import number, spread_text, table
from tools.bench.spread import Spread

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARGIN = 1.6
"""Of the picture's axes, as a factor: over a factor of 2.5 there is always a tick at 1, 2 or 5."""


@dataclass(frozen=True)
class Rung:
    """What one preset costs."""

    preset: str
    parameters: int
    encoder_macs: int
    """For one image."""
    decoder_macs_per_point: int
    graph_bytes: dict[str, int]
    """Of both files, by precision."""
    scene_bytes: dict[str, int]
    """Kept of an image between its encoding and its queries, by precision."""
    kernels: tuple[int, int] | None = None
    """Of the encoder, and of the decoder for K points; None if they were not counted."""
    moved_bytes: tuple[int, int] | None = None
    """What these kernels read and write."""
    encode_ms: Spread | None = None
    """None if it was not measured."""
    total_ms: Spread | None = None
    """T(K): encoding and K points."""


def markdown(rungs: Sequence[Rung], about: dict[str, Any]) -> str:
    """The table, without columns of what was not asked for, and what to know when reading it."""
    columns: dict[str, list[str]] = {
        "preset": [rung.preset for rung in rungs],
        "M parameters": [f"{rung.parameters / 1e6:.1f}" for rung in rungs],
        "GMAC": [number(rung.encoder_macs / 1e9) for rung in rungs],
        "MMAC per point": [number(rung.decoder_macs_per_point / 1e6) for rung in rungs],
        "bundle MB, fp32 / fp16": [" / ".join(_megabytes(rung.graph_bytes.values())) for rung in rungs],
        "kernels": [" + ".join(map(str, rung.kernels)) for rung in rungs if rung.kernels],
        "MB moved": [" + ".join(_megabytes(rung.moved_bytes)) for rung in rungs if rung.moved_bytes],
        "encode ms": [spread_text(rung.encode_ms) for rung in rungs if rung.encode_ms],
        f"T({about['points']}) ms": [spread_text(rung.total_ms) for rung in rungs if rung.total_ms],
        "MB per scene, fp32 / fp16": [" / ".join(_megabytes(rung.scene_bytes.values())) for rung in rungs],
    }
    columns = {name: cells for name, cells in columns.items() if cells}
    notes = ["{} x {} pixels; GMAC: encoder in fp32, MMAC: decoder in fp32".format(*about["size"])]
    if about["compiler"]:
        notes.append(f"kernels: encoder + decoder at K = {about['points']}, fp16, {about['compiler']}; not run")
    if about["rounds"]:
        machine = about["machine"]
        where = f"fp32 on ONNX Runtime, {machine['cpu']}, threads: {machine['threads']}"
        notes.append(f"times: {where}; median (10th–90th percentile) over {about['rounds']} rounds")
    notes += [f"`{about['command']}`, {about['date']}", *about["notes"]]
    lines = "\n".join(f"- {note}" for note in notes)
    return f"{table(list(columns), list(zip(*columns.values(), strict=True)), left=(0,))}\n\n{lines}\n"


def _megabytes(values: Iterable[int]) -> list[str]:
    return [f"{value / 1e6:,.1f}" for value in values]


def draw(rungs: Sequence[Rung], about: dict[str, Any]) -> Figure:
    """Draw T against multiply-accumulates, and against the bytes that kernels move if they were counted."""
    from matplotlib.ticker import LogLocator, NullLocator

    from spd.utils.plots import COLOURS, figure, grouped_numbers, open_frame

    points = about["points"]
    work = [(rung.encoder_macs + points * rung.decoder_macs_per_point) / 1e9 for rung in rungs]
    moved = [sum(rung.moved_bytes) / 1e6 for rung in rungs if rung.moved_bytes]
    panels = {"multiply-accumulates [G]": work, "moved by the kernels of a GPU, float16 [MB]": moved}
    panels = {name: amounts for name, amounts in panels.items() if amounts}
    times = [rung.total_ms for rung in rungs if rung.total_ms]
    made, every_axes = figure(4.0, columns=len(panels))
    title = "One image of {} x {} pixels and {} points, {}"
    made.suptitle(title.format(*about["size"], points, about["machine"]["cpu"]), parse_math=False)
    for axes, (name, amounts) in zip(every_axes, panels.items(), strict=True):
        axes.plot(amounts, [time.median for time in times], color="#bbbbbb", zorder=1)
        for i, (rung, amount, time) in enumerate(zip(rungs, amounts, times, strict=True)):
            colour, reach = COLOURS[i], [[time.median - time.p10], [time.p90 - time.median]]
            axes.errorbar(amount, time.median, yerr=reach, fmt="o", color=colour)
            # Neighbours have their names on different sides of the line.
            side, align = ((7, -5), ("left", "top")) if i % 2 else ((-7, 5), ("right", "bottom"))
            place: dict[str, Any] = {"textcoords": "offset points", "ha": align[0], "va": align[1]}
            axes.annotate(rung.preset, (amount, time.median), side, color=colour, **place)
        axes.set(xscale="log", yscale="log", xlabel=name)
        axes.set_xlim(min(amounts) / MARGIN, max(amounts) * MARGIN)
        axes.set_ylim(min(time.p10 for time in times) / MARGIN, max(time.p90 for time in times) * MARGIN)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(grouped_numbers())
            axis.set_minor_locator(NullLocator())
        open_frame(axes, "both")
    every_axes[0].set_ylabel(f"T({points}) on the CPU, float32 [ms]")
    return made
