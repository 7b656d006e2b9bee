"""The picture of a profile: a bar for each graph, cut into the paper's blocks by their share of the time."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from engines.profile.report import BlockProfile, GraphProfile, Report

BACKGROUND, TEXT, FAINT = (24, 24, 24), (235, 235, 235), (150, 150, 150)

COLOURS = (
    (102, 153, 204), (238, 119, 51), (0, 153, 136), (204, 187, 68), (238, 102, 170), (102, 204, 238), (170, 119, 204),
    (136, 187, 85), (221, 85, 85), (153, 153, 153),
)  # fmt: skip
"""By the number of the block in its graph; neighbours differ in lightness too."""

TEXT_SIZE = 18
BAR_WIDTH, BAR_HEIGHT = 110, 560
COLUMN = 470
"""Width of a bar with its labels, pixels."""
MARGIN, TOP = 30, 120
LINE = 24
"""Least distance of two labels, pixels."""


def draw(report: Report) -> Image.Image:
    """Draw a profile; the dark part of a block's width is the share of its time that the roofline explains."""
    font, small = ImageFont.load_default(TEXT_SIZE), ImageFont.load_default(TEXT_SIZE - 4)
    width = MARGIN + COLUMN * len(report.graphs)
    picture = Image.new("RGB", (width, TOP + BAR_HEIGHT + 2 * MARGIN), BACKGROUND)
    pen = ImageDraw.Draw(picture)
    settings, manifest = report.settings, report.bundle.manifest
    title = f"{manifest.name} {settings.precision} on {settings.backend}, {manifest.height} x {manifest.width}"
    pen.text((MARGIN, MARGIN), title, TEXT, font, anchor="lm")
    for i, profile in enumerate(report.graphs):
        _bar(pen, MARGIN + i * COLUMN, profile, (font, small))
    if report.machine is not None:
        explained = "dark: the share of a block's time that arithmetic or traffic at the machine's best would take"
        pen.text((MARGIN, TOP + BAR_HEIGHT + MARGIN), explained, FAINT, small, anchor="lm")
    return picture


def _bar(
    pen: ImageDraw.ImageDraw,
    left: int,
    profile: GraphProfile,
    fonts: tuple[ImageFont.FreeTypeFont | ImageFont.ImageFont, ImageFont.FreeTypeFont | ImageFont.ImageFont],
) -> None:
    font, small = fonts
    at = f", K = {profile.points}" if profile.points else ""
    pen.text((left, TOP - 50), f"{profile.graph}{at}", TEXT, font, anchor="lm")
    pen.text((left, TOP - 26), f"{profile.operators_ms:.4g} ms in operators", FAINT, small, anchor="lm")
    edges = segment_edges(profile.blocks)
    labels = spread([(top + bottom) / 2 for top, bottom in edges], LINE, TOP, TOP + BAR_HEIGHT)
    right = left + BAR_WIDTH
    for i, (block, (top, bottom), y) in enumerate(zip(profile.blocks, edges, labels, strict=True)):
        colour = COLOURS[i % len(COLOURS)]
        pen.rectangle((left, top, right, bottom), colour)
        if block.over_floor is not None:
            dark = tuple(value * 11 // 20 for value in colour)
            pen.rectangle((left, top, left + BAR_WIDTH * min(1.0, 1 / max(block.over_floor, 1e-9)), bottom), dark)
        pen.line((right + 4, (top + bottom) / 2, right + 16, y, right + 24, y), colour, 2)
        pen.text((right + 30, y), f"{block.block}  {block.ms:.3g} ms  {block.share:.0%}", TEXT, font, anchor="lm")


def segment_edges(blocks: Sequence[BlockProfile]) -> list[tuple[float, float]]:
    """Top and bottom of each block's piece of the bar, pixels; their heights are as their shares."""
    edges, top = [], float(TOP)
    for block in blocks:
        bottom = top + BAR_HEIGHT * block.share
        edges.append((top, bottom))
        top = bottom
    return edges


def spread(wanted: Sequence[float], distance: float, low: float, high: float) -> list[float]:
    """Positions near the wanted, rising ones, at least `distance` apart and within low..high as far as they fit."""
    placed: list[float] = []
    for y in wanted:
        placed.append(max(y, placed[-1] + distance if placed else low))
    limit = high
    for i in reversed(range(len(placed))):
        placed[i] = min(placed[i], limit)
        limit = placed[i] - distance
    return placed
