"""The look of all plots: legible at the width of a README, on a page of any colour. Needs matplotlib, not a display."""

from __future__ import annotations

import warnings
from typing import IO, Literal

from spd.errors import SPDError

try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter
except ModuleNotFoundError as error:
    raise SPDError("pictures and plots need matplotlib: pip install matplotlib") from error

WIDTH = 8.5
"""Inches. At a README's 850 pixels a text of 10 points is 14 pixels high."""
DPI = 200
"""Twice what a README shows, for dense screens."""

COLOURS = (
    "#2f6fd0", "#c9590b", "#16855d", "#9a4fc4", "#cf3f3a", "#128197", "#7d7a14", "#c8418c", "#8f5f3c", "#6f6f6f",
)  # fmt: skip
"""Of lines and bars, in this order. Each has a contrast of 3 or more with white and with black."""


def figure(height: float, columns: int = 1, rows: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of `WIDTH` x `height` inches on white, with the axes of its panels row by row."""
    made = Figure((WIDTH, height), DPI, facecolor="white", layout="constrained")
    return made, list(made.subplots(rows, columns, squeeze=False).flat)


def open_frame(axes: Axes, grid: Literal["x", "y", "both"]) -> None:
    """Leave out the frame's upper and right side, and draw faint lines at the ticks of the axes `grid`."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color="#dddddd")
    axes.set_axisbelow(True)


def grouped_numbers() -> FuncFormatter:
    """Ticks such as `0.5` and `4,096`, never powers of ten."""
    return FuncFormatter(lambda value, _: f"{value:,.10g}")


def write_png(made: Figure, file: IO[bytes]) -> None:
    """Write a figure as PNG. Characters that the font lacks are boxes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        made.savefig(file, format="png")
