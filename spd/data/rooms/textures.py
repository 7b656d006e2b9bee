"""Materials and their procedural textures, in metres, so that a texture shrinks with distance as a real one does.

Every material has the same parameters and all pixels are evaluated at once: cells (tiles, planks, bricks, stripes,
books) with joints and a tint of their own, plus noise at two scales. Patterns fade where a pixel covers more than they
can show, which is the exact mean and spares supersampling. Legend: P pixels, M materials.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
RGB = tuple[float, float, float]

TILE = 256
"""Side of the noise tile in texels; a power of two, so that wrapping is a bit mask."""


@dataclass(frozen=True)
class Material:
    """A surface. Colours are linear reflectances in 0..1; sizes are metres."""

    colour: RGB
    second: RGB = (0.0, 0.0, 0.0)
    """Colour of joints and of odd cells."""
    cell: tuple[float, float] = (50.0, 50.0)
    """Width and height of a cell."""
    joint: float = 0.0
    """Width of the joints between cells; 0 has none."""
    shift: float = 0.0
    """Each row of cells starts this share of a cell after the row below."""
    checker: float = 0.0
    """How much of the second colour odd cells have, 0..1."""
    tint: float = 0.0
    """Spread of the brightness of cells."""
    hue: float = 0.0
    """Spread of the colour of cells."""
    fold: float = 0.0
    """Depth of the shading of cells as vertical folds, 0..1."""
    grain: float = 0.0
    """Contrast of the fine noise."""
    grain_size: tuple[float, float] = (0.02, 0.02)
    """Size of its features along u and v."""
    blotch: float = 0.0
    """Contrast of the coarse noise, with features of about 0.4 m."""
    art: float = 0.0
    """Contrast of coloured blobs, as on pictures and screens."""
    gloss: float = 0.0
    """Strength of highlights, 0..1."""
    glow: float = 0.0
    """Light that the surface gives off by itself, in units of a white surface in full light."""


def table(materials: list[Material]) -> dict[str, F32]:
    """Columns float32 [M] by name; pairs and triples become `name_0`, `name_1`, ..."""
    columns: dict[str, F32] = {}
    for field in fields(Material):
        values = np.array([getattr(material, field.name) for material in materials], np.float32)
        if values.ndim == 1:
            columns[field.name] = values
        else:
            columns.update({f"{field.name}_{k}": np.ascontiguousarray(values[:, k]) for k in range(values.shape[1])})
    return columns


@cache
def noise_tile() -> F32:
    """Smooth periodic noise float32 [TILE * TILE], mean 0, deviation 1, with features of about 8 texels."""
    rng = np.random.default_rng(20240229)
    frequency = np.hypot(np.fft.fftfreq(TILE)[:, None], np.fft.rfftfreq(TILE)[None, :]) * TILE
    band = np.exp(-0.5 * ((frequency - 14) / 9) ** 2) * (frequency > 0)
    noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((TILE, TILE))) * band, s=(TILE, TILE))
    tile: F32 = np.clip(noise / noise.std(), -2.5, 2.5).astype(np.float32).ravel()
    tile.setflags(write=False)
    return tile


def noise(u: F32, v: F32) -> F32:
    """The noise at (u, v) in units of its features, float32 [P]; repeats after 32 features."""
    column = (u * 8).astype(np.int32) & (TILE - 1)
    row = (v * 8).astype(np.int32) & (TILE - 1)
    return noise_tile().take(row * TILE + column)


def _smooth_noise(u: F32, v: F32) -> F32:
    """`noise` without steps, for patterns of high contrast; four times the work."""
    x, y = u * 8, v * 8
    left: F32 = np.floor(x)
    top: F32 = np.floor(y)
    x = x - left
    y = y - top
    j, i = left.astype(np.int32), top.astype(np.int32)
    column, right = j & (TILE - 1), (j + 1) & (TILE - 1)
    row, below = (i & (TILE - 1)) * TILE, ((i + 1) & (TILE - 1)) * TILE
    tile = noise_tile()
    upper, lower = tile.take(row + column), tile.take(below + column)
    upper += (tile.take(row + right) - upper) * x
    lower += (tile.take(below + right) - lower) * x
    upper += (lower - upper) * y
    return upper


def _hash(i: F32, j: F32, salt: F32) -> F32:
    """A number in 0..1 for each cell, float32 [P]."""
    key = i.astype(np.int32) * 7919 + j.astype(np.int32) * 104729 + salt.astype(np.int32)
    key = (key ^ (key >> 7)) * 5167
    mixed: F32 = ((key ^ (key >> 9)) & 1023).astype(np.float32)
    mixed *= np.float32(1 / 1023)
    return mixed


def _cells(columns: dict[str, F32], which: npt.NDArray[np.intp], u: F32, v: F32, blur: F32) -> tuple[F32, F32, F32]:
    """Brightness, share of the second colour, and the cell's own random number, float32 [P] each."""

    def at(name: str) -> F32:
        return columns[name].take(which)

    wide, high, joint = at("cell_0"), at("cell_1"), at("joint")
    # Half a cell on, so that a single cell covers a surface around its middle.
    y = v / high + np.float32(0.5)
    row = np.floor(y)
    x = u / wide + (row * at("shift") + np.float32(0.5))
    column = np.floor(x)
    x -= column
    y -= row
    # Distance to the nearest joint in metres; the joint's edge is as wide as the pixel, and a joint thinner than the
    # pixel loses contrast in proportion.
    edge = np.minimum(np.minimum(x, 1 - x) * wide, np.minimum(y, 1 - y) * high)
    second = np.clip((joint * 0.5 - edge) / blur + 0.5, 0, 1) * np.minimum(joint / blur, 1)
    show = np.clip(1.5 - blur / np.minimum(wide, high), 0, 1)
    odd = (column + row) * 0.5
    odd -= np.floor(odd)
    second = np.maximum(second, at("checker") * (2 * odd * show + (1 - show) * 0.5))
    own = _hash(column, row, which.astype(np.float32) * 31) - 0.5
    own *= show
    light = 1 + at("tint") * own + at("fold") * show * (4 * x * (1 - x) - 0.67)
    return light, second, own


def evaluate(columns: dict[str, F32], which: npt.NDArray[np.intp], u: F32, v: F32, blur: F32) -> F32:
    """Reflectance of every pixel.

    Args:
        columns: `table` of the scene's materials.
        which: [P] index of the material.
        u: float32 [P] metres along the surface.
        v: float32 [P] metres along the surface, upwards on walls.
        blur: float32 [P] metres of the surface that the pixel covers.

    Returns:
        float32 [3, P], linear RGB in 0..1.

    """

    def at(name: str) -> F32:
        return columns[name].take(which)

    light, second, own = _cells(columns, which, u, v, blur)
    slide = own * 37  # planks and books do not continue one another's grain
    size_u, size_v = at("grain_size_0"), at("grain_size_1")
    fine = np.clip(2 * np.minimum(size_u, size_v) / blur - 0.3, 0, 1)
    light += at("grain") * fine * noise(u / size_u + slide, v / size_v + slide)
    coarse = noise(u * 2.5 + slide, v * 2.5) + 0.6 * noise(u * 7, v * 7 + slide)
    light += at("blotch") * coarse
    rgb = np.empty((3, len(u)), np.float32)
    for k in range(3):
        first = at(f"colour_{k}")
        rgb[k] = (first + second * (at(f"second_{k}") - first)) * light
    coloured = np.flatnonzero(at("hue") > 0)
    if coloured.size:
        hue, number = columns["hue"].take(which[coloured]), own[coloured]
        for k in range(3):  # three digits of the cell's number
            rgb[k, coloured] *= 1 + hue * number
            number = number * 10
            number -= np.rint(number)
    drawn = np.flatnonzero(at("art") > 0)
    if drawn.size:
        strength, x, y = columns["art"].take(which[drawn]), u[drawn], v[drawn]
        seed = which[drawn].astype(np.float32)
        shared = _smooth_noise(x * 4 + seed, y * 4 + seed * 3) + 0.6 * _smooth_noise(x * 15 + seed, y * 15)
        for k in range(3):
            blobs = shared + 0.6 * _smooth_noise(x * 6 + (seed * 5 + 9 * k), y * 6 + seed)
            rgb[k, drawn] *= 1 + strength * np.clip(np.sign(blobs) * np.sqrt(np.abs(blobs)) * 0.8, -0.95, 1.5)
    return np.clip(rgb, 0.01, 1.0, out=rgb)
