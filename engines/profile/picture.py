"""The picture of a profile: a bar of time for each block of each graph, and how much of it the roofline explains."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from engines.profile.report import GraphProfile, Report
from spd.utils.plots import COLOURS, figure, grouped_numbers, open_frame

TITLE_INCHES, BAR_INCHES = 1.6, 0.32
MEASURED, EXPLAINED = "measured", "what arithmetic or traffic would take at the machine's best"


def draw(report: Report) -> Figure:
    """Draw a profile, a panel for each graph; times in milliseconds."""
    height = TITLE_INCHES + BAR_INCHES * max(len(profile.blocks) for profile in report.graphs)
    made, panels = figure(height, columns=len(report.graphs))
    settings, manifest = report.settings, report.bundle.manifest
    title = f"{manifest.name} {settings.precision} on {settings.backend}, {manifest.height} x {manifest.width} pixels"
    made.suptitle(title, parse_math=False)
    for axes, profile in zip(panels, report.graphs, strict=True):
        _draw_bars(axes, profile)
    handles, labels = panels[0].get_legend_handles_labels()
    made.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    return made


def _draw_bars(axes: Axes, profile: GraphProfile) -> None:
    """Draw the blocks of a graph from top to bottom, in the order of their execution."""
    blocks = profile.blocks
    names, times = [block.block for block in blocks], [block.ms for block in blocks]
    bars = axes.barh(names, times, color="#a6c1ea", label=MEASURED)
    axes.bar_label(bars, [f"{block.ms:.3g} ms, {block.share:.0%}" for block in blocks], padding=3)
    if any(block.floor_ms is not None for block in blocks):
        explained = [min(block.ms, block.floor_ms or 0.0) for block in blocks]
        axes.barh(names, explained, color=COLOURS[0], label=EXPLAINED)
    points = f", K = {profile.points:,}" if profile.points else ""
    axes.set_title(f"{profile.graph}{points}: {profile.operators_ms:.4g} ms")
    axes.locator_params(axis="x", nbins=4)
    axes.xaxis.set_major_formatter(grouped_numbers())
    axes.set_xlabel("time in operators [ms]")
    axes.set_xlim(0, 1.5 * max(times))  # room for the labels beside the longest bar
    axes.invert_yaxis()
    open_frame(axes, "x")
