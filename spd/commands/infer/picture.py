"""The picture of a query: the points on their image, coloured by depth, with a colour bar in metres."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

SIDES = (640, 2048)
"""The image is drawn with its longer side within these limits, pixels; points are drawn at the drawn size."""
MIN_HEIGHT = 240
"""Lowest picture, pixels: room for the colour bar beside a panorama."""

BACKGROUND = (24, 24, 24)
TEXT = (235, 235, 235)
DARK, LIGHT = np.array([16.0, 16.0, 16.0]), np.array([255.0, 255.0, 255.0])

# Turbo: coefficients of x^0 to x^5 for red, green and blue, from A. Mikhailov and R. Du, "Turbo, an improved rainbow
# colormap" (Google, 2019), https://gist.github.com/mikhailov-work/0d177465a8151eb6ede1768d51d476c7, Apache-2.0.
TURBO = np.array(
    [
        [0.13572138, 4.61539260, -42.66032258, 132.13108234, -152.94239396, 59.28637943],
        [0.09140261, 2.19418839, 4.84296658, -14.18503333, 4.27729857, 2.82956604],
        [0.10667330, 12.64194608, -60.58204836, 110.36276771, -89.90310912, 27.34824973],
    ]
)


def colour(depth: NDArray[np.floating], near: float, far: float) -> NDArray[np.float64]:
    """Colours of depths [...] in metres: RGB [..., 3] within 0..255, red at `near`, blue at `far`."""
    x = np.clip((far - np.asarray(depth, dtype=np.float64)) / (far - near), 0.0, 1.0)
    x = 0.06 + 0.87 * x  # Turbo's ends are nearly black
    powers = x[..., None] ** np.arange(TURBO.shape[1])
    rgb: NDArray[np.float64] = np.clip(powers @ TURBO.T, 0.0, 1.0) * 255.0
    return rgb


def depth_range(depth: NDArray[np.floating]) -> tuple[float, float] | None:
    """Nearest and farthest of the finite depths in metres, never equal; None where there are none."""
    finite = depth[np.isfinite(depth)].astype(np.float64)
    if finite.size == 0:
        return None
    near, far = float(finite.min()), float(finite.max())
    margin = max(0.05 * abs(far), 1e-3)
    return (near, far) if far - near > 1e-6 * abs(far) else (near - margin, far + margin)


def draw(image: Image.Image, points: NDArray[np.float64], depth: NDArray[np.float32]) -> Image.Image:
    """Draw points [K, 2] in pixels of an RGB image, coloured by their depth [K] in metres; NaN is not drawn.

    Returns:
        An RGB image: the given one, scaled so that its longer side is within `SIDES`, and the colour bar on its right.
    """
    longer = max(image.size)
    scale = min(max(longer, SIDES[0]), SIDES[1]) / longer
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    resample = Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.BOX
    pixels = np.asarray(image.resize(size, resample) if size != image.size else image).astype(np.float32)
    limits = depth_range(depth)
    if limits is not None:
        shown = np.isfinite(depth)
        to_drawn = np.array(size) / image.size
        _discs(pixels, points[shown] * to_drawn, colour(depth[shown], *limits), _radius(size, int(shown.sum())))
    height = max(size[1], MIN_HEIGHT)
    bar = _bar(height, limits)
    picture = Image.new("RGB", (size[0] + bar.width, height), BACKGROUND)
    picture.paste(Image.fromarray(np.rint(pixels).astype(np.uint8)), (0, (height - size[1]) // 2))
    picture.paste(bar, (size[0], 0))
    return picture


def _radius(size: tuple[int, int], count: int) -> float:
    """Radius of a disc in pixels: 1% of the image's diagonal, less where the discs would cover a third of the image."""
    area = size[0] * size[1]
    return float(np.clip(min(0.01 * math.hypot(*size), math.sqrt(area / (3 * math.pi * max(count, 1)))), 1.2, 16.0))


def _discs(
    pixels: NDArray[np.float32], centres: NDArray[np.float64], colours: NDArray[np.float64], radius: float
) -> None:
    """Paint antialiased discs with a thin outline into `pixels` [H, W, 3], for all centres [K, 2] at once.

    Works through the pixels around a centre, not through the centres: a million points take seconds. Where discs
    overlap, the one that is higher up lies on top.
    """
    height, width, _ = pixels.shape
    outline = np.where((colours @ [0.299, 0.587, 0.114] > 110)[:, None], DARK, LIGHT)  # contrast with the disc itself
    line = max(1.0, radius / 6) if radius > 3 else 0.0  # outlines of smaller discs would hide their neighbours
    cells = np.floor(centres).astype(np.int64)
    reach = math.ceil(radius + line)
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            column, row = cells[:, 0] + dx, cells[:, 1] + dy
            distance = np.hypot(column + 0.5 - centres[:, 0], row + 0.5 - centres[:, 1])
            touched = (distance < radius + line + 0.5) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
            if not touched.any():
                continue
            column, row, distance = column[touched], row[touched], distance[touched]
            cover = np.clip(radius + line + 0.5 - distance, 0, 1)[:, None]
            core = np.clip(radius + 0.5 - distance, 0, 1)[:, None]
            paint = outline[touched] * (1 - core) + colours[touched] * core
            pixels[row, column] = pixels[row, column] * (1 - cover) + paint * cover


def ticks(near: float, far: float, count: int) -> list[float]:
    """At most `count` round numbers (steps of 1, 2 or 5 times a power of ten) from `near` to `far`, metres."""
    step = 10.0 ** math.floor(math.log10((far - near) / count))
    while math.floor(far / step) - math.ceil(near / step) + 1 > count:
        # 1 -> 2 -> 5 -> 10
        step *= 2.5 if f"{step:.0e}".startswith("2") else 2.0
    return [i * step for i in range(math.ceil(near / step), math.floor(far / step) + 1)]


def _bar(height: int, limits: tuple[float, float] | None) -> Image.Image:
    """The colour bar, near at the bottom, with its labels."""
    text = int(np.clip(height / 32, 12, 32))
    font = ImageFont.load_default(text)
    if limits is None:
        message = "no points"
        panel = Image.new("RGB", (round(font.getlength(message)) + 2 * text, height), BACKGROUND)
        ImageDraw.Draw(panel).text((text, text), message, TEXT, font)
        return panel
    near, far = limits
    values = ticks(near, far, count=max(2, min(7, height // (4 * text))))
    decimals = max(0, -math.floor(math.log10(values[1] - values[0] if len(values) > 1 else far - near) + 1e-9))
    labels = [f"{value:.{decimals}f} m" for value in values]
    top, bottom = 5 * text // 2, height - 2 * text
    left, right = text, text + max(12, round(1.2 * text))
    widest = max(font.getlength(label) for label in ("depth", *labels))
    panel = Image.new("RGB", (round(right + text + widest + text), height), BACKGROUND)
    column = colour(np.linspace(far, near, bottom - top), near, far)
    stripe = np.broadcast_to(np.rint(column).astype(np.uint8)[:, None], (bottom - top, right - left, 3))
    panel.paste(Image.fromarray(np.ascontiguousarray(stripe)), (left, top))
    pen = ImageDraw.Draw(panel)
    pen.text((left, text), "depth", TEXT, font, anchor="lm")
    for value, label in zip(values, labels, strict=True):
        y = top + (far - value) / (far - near) * (bottom - top - 1)
        pen.line([(right, y), (right + text // 3, y)], TEXT, max(1, text // 12))
        pen.text((right + text // 2, y), label, TEXT, font, anchor="lm")
    return panel
