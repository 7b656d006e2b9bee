"""The picture of a benchmark: T(K) against K, a panel for each size, with the K from which the dense network is faster.

It is drawn from what `--json` writes: `python -m tools.bench.plot docs/bench.json docs/bench.png` draws it again.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import click
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator
from numpy.typing import NDArray

from spd.commands.cli import Command
from spd.commands.places import writable
from spd.files import write_atomically
from spd.utils.plots import COLOURS, figure, grouped_numbers, open_frame, write_png
from tools.bench.ratios import break_evens
from tools.bench.rows import NETWORKS, SPARSE, Row
from tools.bench.subject import ENCODE

HEIGHT = 5.0
"""Inches of a figure without its legend."""
LINE_HEIGHT = 0.18
"""Inches of a line of the legend."""
STEPS = 200
"""Places of a curve: what is linear in K is bent on logarithmic axes."""
DASHES: dict[str, Any] = {
    "spd": "-",
    "literal": "--",
    "dav2s": ":",
    **{f"yolo26{scale}": (0, (6, 1.5, *(1, 1.5) * dots)) for dots, scale in enumerate("nsm", start=1)},
}
LABEL_DISTANCE = 0.04
"""Least distance of two upright labels above a panel, as a share of the figure's width."""
RING: dict[str, Any] = {
    "markersize": 9,
    "markerfacecolor": "white",
    "markeredgewidth": 2,
    "zorder": 3,
}

Document = dict[str, Any]
Curves = dict[str, dict[int, float]]
"""Median milliseconds of T(K) by K, by row; a dense network has its time at K = 0 alone."""


def draw(document: Document) -> Figure:
    """Draw a benchmark, `Report.as_dict()`, with at least one row that is not the machine's limit.

    Colours stand for runtimes and their precisions, dashes for networks.
    """
    sizes = list(dict.fromkeys(row["size"] for row in document["rows"] if row["name"] != "matmul"))
    by_size = {size: curves(document, size) for size in sizes}
    names = list(dict.fromkeys(name for found in by_size.values() for name in found))
    backends = list(dict.fromkeys(name.partition("/")[2] for name in names))
    colours = {name: COLOURS[backends.index(name.partition("/")[2]) % len(COLOURS)] for name in names}
    made, panels = figure(HEIGHT + LINE_HEIGHT * (len(names) / 2 + 1), columns=len(sizes))
    for axes, (size, found) in zip(panels, by_size.items(), strict=True):
        marks = crossings(document, size)
        axes.set_title(f"{document['preset']}, {size.replace('x', ' x ')} pixels", pad=52, parse_math=False)
        last = 1.2 * max([4.0, *(k for _, k, _ in marks), *(max(curve) for curve in found.values())])
        _set_axes(axes, last)
        for name, curve in found.items():
            _draw_curve(axes, name, curve, last, colours[name])
        axes.set_ylim(axes.get_ylim())  # the labels above change nothing
        _draw_crossings(axes, marks, colours, LABEL_DISTANCE * len(sizes))
    panels[0].set_ylabel("time to encode and decode K points [ms]")
    handles = {label: line for axes in panels for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    made.legend(handles.values(), handles, loc="outside lower center", ncols=2, frameon=False, handlelength=4)
    return made


def curves(document: Document, size: str) -> Curves:
    """The rows of a size in the order of measuring, without the machine's limit."""
    found: Curves = {}
    for row in document["rows"]:
        if row["size"] == size and row["part"] in ("total", "dense"):
            found.setdefault(f"{row['name']}/{row['backend']}", {})[row["K"]] = row["median_ms"]
    return found


def crossings(document: Document, size: str) -> list[tuple[str, float, float]]:
    """Row, K and milliseconds where a dense network on the same runtime gets faster; not if for one point or never.

    TensorRT, which has no dense network here, is held to that of ONNX Runtime on the GPU.
    """
    turns: dict[Row, dict[int, list[float]]] = {}
    for row in document["rows"]:
        if row["size"] == size and row["part"] in ("encode", "dense", "decode"):
            turns.setdefault(Row(row["name"], row["backend"]), {})[row["K"]] = row["rounds_ms"]
    found = []
    for sparse in [row for row in turns if row.network in SPARSE]:
        backend = "onnxruntime-cuda" if sparse.runtime == "tensorrt" else sparse.backend
        for dense in [row for row in turns if row.network not in SPARSE and row.backend == backend]:
            k = break_evens(turns[sparse], turns[dense][ENCODE]).median
            if 1 <= k < math.inf:
                found.append((str(sparse), k, curves(document, size)[str(dense)][ENCODE]))
    return sorted(found, key=lambda mark: mark[1])


def times_at(curve: dict[int, float], counts: NDArray[np.floating]) -> NDArray[np.floating]:
    """T at K: linear between the K that were measured and beyond the last two; the same everywhere for a dense one."""
    known = sorted(curve)
    slope = (curve[known[-1]] - curve[known[-2]]) / (known[-1] - known[-2]) if len(known) > 1 else 0.0
    within: NDArray[np.floating] = np.interp(counts, known, [curve[count] for count in known])
    within += slope * np.maximum(counts - known[-1], 0)
    return within


def spread(wanted: list[float], distance: float, low: float, high: float) -> list[float]:
    """Positions near the wanted, rising ones, at least `distance` apart and within low..high as far as they fit."""
    placed: list[float] = []
    for at in wanted:
        placed.append(max(at, placed[-1] + distance if placed else low))
    limit = high
    for i in reversed(range(len(placed))):
        placed[i] = min(placed[i], limit)
        limit = placed[i] - distance
    return placed


def _set_axes(axes: Axes, last: float) -> None:
    """Logarithmic axes with whole K in steps of 4, and milliseconds at 1, 2 and 5."""
    axes.set_xscale("log", base=4)
    axes.set_yscale("log")
    axes.set_xlim(0.9, last)
    axes.xaxis.set_major_locator(FixedLocator([4.0**i for i in range(20) if 4.0**i <= last]))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(grouped_numbers())
        axis.set_minor_locator(NullLocator())
    axes.set_xlabel("K, points of an image")
    open_frame(axes, "both")


def _draw_curve(axes: Axes, name: str, curve: dict[int, float], last: float, colour: str) -> None:
    """Draw T(K) with a dot at each K that was measured; thin beyond the last."""
    network, _, backend = name.partition("/")
    style, label = DASHES[network], f"{NETWORKS[network]}, {backend}"
    measured = [count for count in curve if count]
    end = max(measured, default=last)
    counts = np.geomspace(min(measured, default=1), end, STEPS)
    axes.plot(counts, times_at(curve, counts), linestyle=style, color=colour, label=label)
    axes.plot(measured, [curve[count] for count in measured], "o", color=colour, markersize=4)
    beyond = np.geomspace(end, last, STEPS)
    axes.plot(beyond, times_at(curve, beyond), linestyle=style, color=colour, linewidth=0.7)


def _draw_crossings(
    axes: Axes, marks: list[tuple[str, float, float]], colours: dict[str, str], distance: float
) -> None:
    """Draw a ring where a dense network gets faster, with a line from it to its K above the panel."""
    if marks:
        axes.plot([], [], "o", **RING, markeredgecolor="#555555", label="K from which the dense network is faster")
    to_share = axes.transScale + axes.transLimits
    wanted = [float(to_share.transform((k, ms))[0]) for _, k, ms in marks]
    for (name, k, ms), at, label_at in zip(marks, wanted, spread(wanted, distance, 0, 1), strict=True):
        colour = colours[name]
        axes.plot(k, ms, "o", **RING, markeredgecolor=colour, clip_on=False)
        axes.plot([k, k], [ms, axes.get_ylim()[1]], color=colour, linewidth=0.8)
        axes.plot([at, label_at], [1, 1.04], transform=axes.transAxes, color=colour, linewidth=0.8, clip_on=False)
        axes.annotate(
            f"{k:,.0f}", (label_at, 1.05), xycoords="axes fraction", color=colour, ha="center", va="bottom", rotation=90
        )


@click.command(cls=Command)
@click.argument("found", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("picture", type=click.Path(dir_okay=False, path_type=Path), callback=writable(".png"))
def main(found: Path, picture: Path) -> None:
    """Draw FOUND, a file that `python -m tools.bench --json` wrote, to PICTURE (.png)."""
    made = draw(json.loads(found.read_text(encoding="utf-8")))
    with write_atomically(picture) as file:
        write_png(made, file)


if __name__ == "__main__":
    main()
