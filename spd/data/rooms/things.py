"""Small things: what stands on furniture, and what stands about on the floor.

Every piece is centred on x = y = 0 in its own frame, in metres, and stands on z = 0.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from spd.data.rooms.materials import anything, fabric, metal, paint, pick, tone, wood
from spd.data.rooms.parts import Piece, box, ellipsoid, frustum, legs, placed
from spd.data.rooms.textures import Material

Rng = np.random.Generator


def _mug(rng: Rng, size: float) -> Piece:
    wide, high = size * rng.uniform(0.03, 0.045), size * rng.uniform(0.09, 0.15)
    return [frustum(anything(rng), (0, 0), (0, high), (wide, wide * rng.uniform(0.9, 1.2)))]


def _bottle(rng: Rng, size: float) -> Piece:
    skin = anything(rng)
    return [
        frustum(skin, (0, 0), (0, 0.18 * size), (0.038 * size,) * 2),
        frustum(skin, (0, 0), (0.18 * size, 0.24 * size), (0.038 * size, 0.014 * size)),
        frustum(anything(rng), (0, 0), (0.24 * size, 0.3 * size), (0.014 * size,) * 2),
    ]


def _ball(rng: Rng, size: float) -> Piece:
    radius = rng.uniform(0.03, 0.08) * size
    return [ellipsoid(anything(rng), (0, 0, radius), (radius,) * 3)]


def _bowl(rng: Rng, size: float) -> Piece:
    return [frustum(anything(rng), (0, 0), (0, 0.07 * size), (0.05 * size, 0.13 * size))]


def _books(rng: Rng, size: float) -> Piece:
    turn, tops = rng.uniform(0, math.pi), (np.cumsum(rng.uniform(0.015, 0.05, int(rng.integers(1, 5)))) * size).tolist()
    return [
        box(
            anything(rng),
            (-0.12 * size, 0.12 * size),
            (-0.08 * size, 0.08 * size),
            (low, high),
            turn + rng.normal(0, 0.15),
        )
        for low, high in zip([0.0, *tops[:-1]], tops, strict=True)
    ]


def _frame(rng: Rng, size: float) -> Piece:
    skin = replace(anything(rng), art=0.8)
    return [box(skin, (-0.1 * size, 0.1 * size), (-0.01, 0.01), (0, 0.24 * size), rng.uniform(0, math.pi))]


def _vase(rng: Rng, size: float) -> Piece:
    skin = anything(rng)
    return [
        frustum(skin, (0, 0), (0, 0.12 * size), (0.04 * size, 0.08 * size)),
        frustum(skin, (0, 0), (0.12 * size, 0.24 * size), (0.08 * size, 0.035 * size)),
    ]


def _heap(rng: Rng, size: float) -> Piece:
    flat = rng.uniform(0.03, 0.07)
    return [ellipsoid(fabric(rng), (0, 0, flat * 0.8 * size), (0.15 * size, 0.11 * size, flat * size))]


def _carton(rng: Rng, size: float) -> Piece:
    wide, deep, high = (rng.uniform(0.05, 0.22, 3) * size).tolist()
    turn = rng.uniform(0, math.pi)
    return [box(anything(rng), (-wide / 2, wide / 2), (-deep / 2, deep / 2), (0, high), turn)]


_TRINKETS = (_carton, _carton, _mug, _mug, _bottle, _ball, _bowl, _books, _frame, _vase, _heap)


def trinket(rng: Rng, big: float = 1.0) -> Piece:
    """Something small that stands on a surface; `big` scales it."""
    return _TRINKETS[int(rng.integers(len(_TRINKETS)))](rng, big * rng.uniform(0.7, 1.3))


def strewn(rng: Rng, x: tuple[float, float], y: tuple[float, float], z: float, count: int) -> Piece:
    """Up to `count` small things within a rectangle at height z, none inside another."""
    taken: list[tuple[float, float, float]] = []
    out: Piece = []
    for _ in range(count):
        piece = trinket(rng)
        radius = max(max(part.reach) for part in piece)
        if x[1] - x[0] < 2 * radius or y[1] - y[0] < 2 * radius:
            continue
        at = (rng.uniform(x[0] + radius, x[1] - radius), rng.uniform(y[0] + radius, y[1] - radius))
        if all(math.hypot(at[0] - a, at[1] - b) > radius + r for a, b, r in taken):
            taken.append((*at, radius))
            out += placed(piece, *at, z, 0.0)
    return out


def lamp(rng: Rng, tall: bool = True) -> Piece:
    """A floor lamp, or a table lamp; centred."""
    high, wide = (rng.uniform(1.3, 1.7), rng.uniform(0.15, 0.24)) if tall else (rng.uniform(0.35, 0.55), 0.14)
    shade = Material(tone(rng, (0.06, 0.14), (0.05, 0.4), (0.8, 0.95)), glow=float(rng.choice([0.0, 1.3])))
    foot = metal(rng) if rng.random() < 0.6 else paint(rng, 0.5)
    rod = 0.012 if tall else rng.uniform(0.015, 0.07)
    return [
        frustum(foot, (0, 0), (0, 0.025), (wide * 0.7,) * 2),
        frustum(foot, (0, 0), (0.025, high - wide), (rod, rod)),
        frustum(shade, (0, 0), (high - wide, high + wide * 0.5), (wide, wide * rng.uniform(0.5, 0.95))),
    ]


def plant(rng: Rng) -> Piece:
    """A pot with leaves; centred."""
    size, leaf = rng.uniform(0.5, 1.5), Material(tone(rng, (0.22, 0.38), (0.4, 0.8), (0.2, 0.55)), grain=0.2)
    pot = 0.1 + 0.1 * size
    out = [frustum(paint(rng, 0.4), (0, 0), (0, pot * 1.4), (pot * 0.7, pot))]
    out.append(frustum(wood(rng), (0, 0), (pot * 1.4, size * 0.7), (0.02, 0.01)))
    for _ in range(int(rng.integers(6, 14))):
        turn, far = rng.uniform(0, 2 * math.pi), rng.uniform(0.02, 0.25) * size
        z = rng.uniform(0.5, 1.0) * size + pot
        half = (rng.uniform(0.08, 0.2) * size, rng.uniform(0.03, 0.08) * size, rng.uniform(0.03, 0.12) * size)
        skin = replace(leaf, colour=(leaf.colour[0], leaf.colour[1] * rng.uniform(0.5, 1.1), leaf.colour[2]))
        out += placed([ellipsoid(skin, (far, 0, z), half)], 0, 0, 0, turn)
    return out


def clutter(rng: Rng) -> Piece:
    """Something that stands on the floor: cartons, a bin, a ball, a stool, a bag; centred."""
    kind = pick(rng, "cartons", "cartons", "bin", "ball", "stool", "bag", "things", "crate")
    if kind == "bin":
        return [
            frustum(
                anything(rng), (0, 0), (0, rng.uniform(0.25, 0.6)), (rng.uniform(0.1, 0.15), rng.uniform(0.13, 0.2))
            )
        ]
    if kind == "ball":
        radius = rng.uniform(0.08, 0.3)
        return [ellipsoid(anything(rng), (0, 0, radius), (radius,) * 3)]
    if kind == "stool":
        high, radius, skin = rng.uniform(0.4, 0.7), rng.uniform(0.15, 0.2), wood(rng)
        feet = legs(skin, radius * 0.75, (-radius * 0.75, radius * 0.75), high, 0.03)
        return [*feet, frustum(anything(rng), (0, 0), (high, high + 0.04), (radius, radius))]
    if kind == "bag":
        x, y, z = rng.uniform(0.12, 0.32), rng.uniform(0.1, 0.22), rng.uniform(0.1, 0.25)
        return [ellipsoid(fabric(rng), (0, 0, z * 0.95), (x, y, z))]
    if kind == "things":
        return trinket(rng, 2.0)
    out: Piece = []
    z = 0.0
    for _ in range(int(rng.integers(1, 4))):
        wide, deep, high = rng.uniform(0.2, 0.6), rng.uniform(0.2, 0.45), rng.uniform(0.12, 0.4)
        skin = (
            anything(rng) if kind == "crate" else Material(tone(rng, (0.07, 0.1), (0.3, 0.6), (0.4, 0.8)), grain=0.04)
        )
        turn, tape = rng.normal(0, 0.3), tone(rng, (0.06, 0.12), (0.1, 0.5), (0.3, 0.9))
        out.append(box(skin, (-wide / 2, wide / 2), (-deep / 2, deep / 2), (z, z + high), turn))
        if kind == "cartons":
            strip = box(
                Material(tape), (-wide / 2 - 0.001, wide / 2 + 0.001), (-0.025, 0.025), (z, z + high + 0.001), turn
            )
            out.append(strip)
        z += high
    return out
