"""The picture of `spd-profile --kernels`: kernels and bytes of each block, and how much of both only moves data."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from engines.profile.compiled import CompiledBundle, GraphKernels
from engines.profile.picture import BAR_INCHES
from spd.utils.plots import COLOURS, figure, grouped_numbers, open_frame

TITLE_INCHES = 3.5
ALL, MOVING = "all kernels", "kernels that only copy, cast, reshape or transpose"


def draw(report: CompiledBundle) -> Figure:
    """Draw a column of two panels for each graph: kernels, and megabytes that they read and write."""
    height = TITLE_INCHES + 2 * BAR_INCHES * max(len(graph.by_block()) for graph in report.graphs)
    made, panels = figure(height, columns=len(report.graphs), rows=2)
    manifest = report.bundle.manifest
    made.suptitle(
        f"{manifest.name} {report.precision}, {manifest.height} x {manifest.width} pixels\n"
        f"compiled, not run, for compute capability {report.compute_capability} by {report.compiler}",
        parse_math=False,
    )
    for kernels, megabytes, graph in zip(*_rows(panels), report.graphs, strict=True):
        counts = graph.by_block()
        points = f", K = {graph.points:,}" if graph.points else ""
        total = graph.total
        kernels.set_title(f"{graph.graph}{points}: {total.kernels} kernels")
        megabytes.set_title(f"{_three_digits(total.bytes / 1e6)} MB moved")
        _draw_bars(
            kernels, list(counts), [c.kernels for c in counts.values()], [c.moving_kernels for c in counts.values()]
        )
        _draw_bars(
            megabytes,
            list(counts),
            [c.bytes / 1e6 for c in counts.values()],
            [c.moving_bytes / 1e6 for c in counts.values()],
        )
        kernels.set_xlabel("kernels")
        megabytes.set_xlabel("read and written [MB]")
    handles, labels = panels[0].get_legend_handles_labels()
    made.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, title=caption(report.graphs))
    return made


def caption(graphs: tuple[GraphKernels, ...]) -> str:
    """The predicted times, a line for each graph."""
    lines = [
        f"{graph.graph}: {', '.join(f'{name} {ms:.2f}' for name, ms in graph.predicted_ms().items())}"
        for graph in graphs
    ]
    return "\n".join(["Predicted from data sheets, not measured [ms]", *lines])


def _rows(panels: list[Axes]) -> tuple[list[Axes], list[Axes]]:
    half = len(panels) // 2
    return panels[:half], panels[half:]


def _draw_bars(axes: Axes, blocks: list[str], values: list[float], moving: list[float]) -> None:
    """Draw the blocks from top to bottom, in the order of their execution."""
    bars = axes.barh(blocks, values, color="#a6c1ea", label=ALL)
    axes.bar_label(bars, [_three_digits(value) for value in values], padding=3)
    axes.barh(blocks, moving, color=COLOURS[0], label=MOVING)
    axes.locator_params(axis="x", nbins=4)
    axes.xaxis.set_major_formatter(grouped_numbers())
    axes.set_xlim(0, 1.25 * max(values))  # room for the label beside the longest bar
    axes.invert_yaxis()
    open_frame(axes, "x")


def _three_digits(value: float) -> str:
    """Such as 0.0922, 16.5 or 1,049."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
