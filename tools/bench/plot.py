"""The picture: T(K) against K on logarithmic axes, a panel for each size, with the break-even points marked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from PIL import Image, ImageDraw, ImageFont

from tools.bench.measure import Measured
from tools.bench.ratios import PAIRS, break_evens, totals
from tools.bench.report import Report, number
from tools.bench.rows import Row
from tools.bench.spread import AT_ONCE, Spread
from tools.bench.subject import ENCODE

BACKGROUND, TEXT, FAINT, GRID = (24, 24, 24), (235, 235, 235), (150, 150, 150), (52, 52, 52)
COLOURS = (
    (102, 153, 204), (238, 119, 51), (0, 153, 136), (204, 187, 68), (238, 102, 170), (102, 204, 238), (170, 119, 204),
    (136, 187, 85), (221, 85, 85), (222, 222, 222), (187, 136, 102), (119, 119, 255),
)  # fmt: skip
"""By the number of the row among all rows."""

# Everything is drawn at twice the size, and smoothed.
SCALE = 2
PANEL_WIDTH, PANEL_HEIGHT = 1280, 1000
LEFT, TOP, BOTTOM, RIGHT = 140, 120, 120, 60
THICK, THIN, DOT, MARK = 6, 2, 8, 14
LEGEND_LINE = 44
TEXT_SIZE = 28
STEPS = 24
"""Pieces of a curve between two K: what is linear in K is bent on logarithmic axes."""

Colour = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Axes:
    """Where a panel draws K and milliseconds, in pixels before the picture is made smaller by `SCALE`."""

    left: int
    """Left edge of the plotted area."""
    k: tuple[float, float]
    """Smallest and largest K."""
    ms: tuple[float, float]
    """Least and most milliseconds."""

    def x(self, count: float) -> float:
        """How far from the left."""
        return self.left + (PANEL_WIDTH - LEFT - RIGHT) * _share(count, *self.k)

    def y(self, ms: float) -> float:
        """How far from the top."""
        return TOP + (PANEL_HEIGHT - TOP - BOTTOM) * (1 - _share(ms, *self.ms))


@dataclass(frozen=True)
class Mark:
    """A break-even point."""

    row: Row
    count: float
    """K."""
    ms: float
    """What the dense network takes."""


def _share(value: float, low: float, high: float) -> float:
    return math.log(value / low) / math.log(high / low)


def marks(rows: dict[Row, Measured]) -> list[Mark]:
    """The break-even points of a size that lie at some K: neither at once nor never."""
    found = []
    for sparse, dense in PAIRS.values():
        if sparse in rows and dense in rows and len(rows[sparse].turns) > 1:
            count = break_evens(rows[sparse], rows[dense]).median
            if count > AT_ONCE and math.isfinite(count):
                found.append(Mark(sparse, count, Spread.of(rows[dense].turns[ENCODE]).median))
    return found


def axes(rows: dict[Row, Measured], counts: Sequence[int], left: int) -> Axes:
    """The axes of a panel: everything that is drawn fits, marks included."""
    times = [ms for one in _drawn(rows) for _, ms in _curve(one)]
    times += [mark.ms for mark in marks(rows)]
    last = max([2, *counts, *(mark.count * 1.2 for mark in marks(rows))])
    return Axes(left, (min(counts, default=1), last), (min(times) / 1.3, max(times) * 1.3))


def draw(report: Report) -> Image.Image:
    """Draw a report with at least one measured network."""
    sizes = [size for size in report.sizes() if _drawn(report.of_size(*size))]
    every = list(dict.fromkeys(one.row for one in report.measured if one.row.network != "matmul"))
    colours = {row: COLOURS[i % len(COLOURS)] for i, row in enumerate(every)}
    height = PANEL_HEIGHT + LEGEND_LINE * ((len(every) + 1) // 2)
    picture = Image.new("RGB", (PANEL_WIDTH * max(1, len(sizes)), height), BACKGROUND)
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(TEXT_SIZE)
    for number_of, size in enumerate(sizes):
        rows = report.of_size(*size)
        panel = axes(rows, report.counts, PANEL_WIDTH * number_of + LEFT)
        title = f"{report.about['preset']} {size[0]}x{size[1]}: encode and decode K points, ms"
        pen.text((panel.left, TOP // 2), title, TEXT, font, anchor="lm")
        _grid(pen, panel, font)
        for one in _drawn(rows):
            _line(pen, panel, one, colours[one.row])
        for i, mark in enumerate(sorted(found := marks(rows), key=lambda mark: -mark.count), start=1):
            # One label over the other, or neighbours would hide each other.
            level = min(panel.y(other.ms) for other in found) - MARK - i * (TEXT_SIZE + 8)
            _mark(pen, panel, mark, level, colours[mark.row], font)
    for i, row in enumerate(every):
        x, y = LEFT + (i % 2) * 560, PANEL_HEIGHT + LEGEND_LINE * (i // 2)
        pieces = ((0, 22), (38, 60)) if row.network == "literal" else ((0, 60),)  # as `_line` dashes
        for start, end in pieces:
            pen.line((x + start, y, x + end, y), colours[row], THICK)
        pen.text((x + 80, y), str(row), TEXT, font, anchor="lm")
    return picture.reduce(SCALE)


def _drawn(rows: dict[Row, Measured]) -> list[Measured]:
    return [one for one in rows.values() if one.row.network != "matmul"]


def _curve(one: Measured) -> list[tuple[float, float]]:
    """(K, ms) of a row; a dense one has no K."""
    counts = [work for work in sorted(one.turns) if work != ENCODE]
    if not counts:
        return [(0, Spread.of(one.turns[ENCODE]).median)]
    return [(count, Spread.of(totals(one, count)).median) for count in counts]


def _line(pen: ImageDraw.ImageDraw, panel: Axes, one: Measured, colour: Colour) -> None:
    curve = _curve(one)
    if len(curve) == 1:  # the same for all K
        curve = [(count, curve[0][1]) for count in panel.k]
    for count, ms in curve if len(one.turns) > 1 else []:
        _dot(pen, panel.x(count), panel.y(ms), DOT, colour)
    places = [(panel.x(count), panel.y(ms)) for count, ms in bent(curve)]
    for i, (start, end) in enumerate(pairwise(places)):
        if one.row.network != "literal" or i % 2 == 0:
            pen.line((*start, *end), colour, THICK)
    (before, less), (last, most) = curve[-2:]
    if last < panel.k[1]:
        beyond = most + (most - less) / (last - before) * (panel.k[1] - last)
        ends = [(panel.x(count), panel.y(ms)) for count, ms in bent([(last, most), (panel.k[1], beyond)])]
        pen.line([place for place in ends if place[1] >= TOP], colour, THIN)


def bent(curve: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """A curve that is linear between the given (K, ms), with places between them that are even on the axis of K."""
    places = [curve[0]]
    for (left, before), (right, after) in pairwise(curve):
        for step in range(1, STEPS + 1):
            count = left * (right / left) ** (step / STEPS)
            places.append((count, before + (after - before) * (count - left) / (right - left)))
    return places


def _dot(pen: ImageDraw.ImageDraw, x: float, y: float, radius: int, colour: Colour) -> None:
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), colour)


def _mark(pen: ImageDraw.ImageDraw, panel: Axes, mark: Mark, level: float, colour: Colour, font: Font) -> None:
    """A ringed dot, and at a level above it what it says."""
    x, y = panel.x(max(mark.count, panel.k[0])), panel.y(mark.ms)
    pen.line((x, y, x, level), colour, THIN)
    _dot(pen, x, y, MARK + 3, TEXT)
    _dot(pen, x, y, MARK, colour)
    pen.text((x - 6, level), f"K = {number(mark.count)}", colour, font, anchor="rm")


def _grid(pen: ImageDraw.ImageDraw, panel: Axes, font: Font) -> None:
    bottom, right = PANEL_HEIGHT - BOTTOM, panel.left + PANEL_WIDTH - LEFT - RIGHT
    count = 1
    while count <= panel.k[1]:
        if count >= panel.k[0]:
            x = panel.x(count)
            pen.line((x, TOP, x, bottom), GRID)
            pen.text((x, bottom + 28), str(count), FAINT, font, anchor="mm")
        count *= 4
    for ms in _ticks(*panel.ms):
        pen.line((panel.left, panel.y(ms), right, panel.y(ms)), GRID)
        pen.text((panel.left - 16, panel.y(ms)), f"{ms:g}", FAINT, font, anchor="rm")
    pen.text((right, bottom + 70), "K, points", FAINT, font, anchor="rm")


def _ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten within the axis."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [step * 10.0**power for power in powers for step in (1, 2, 5) if low <= step * 10.0**power <= high]
