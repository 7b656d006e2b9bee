"""Furniture, each piece a list of solids in real sizes.

Every piece stands in its own frame, in metres: x along its back, y from its back (y = 0) to its front, z up from what
it stands on. Pieces are centred on x = 0; those of `IN_ROOM` on y = 0, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from spd.data.rooms.cast import BOX
from spd.data.rooms.materials import fabric, metal, paint, tone, wood
from spd.data.rooms.parts import Piece, box, ellipsoid, frustum, legs, placed
from spd.data.rooms.textures import Material
from spd.data.rooms.things import clutter, lamp, plant, strewn

Rng = np.random.Generator


def cabinet(rng: Rng) -> Piece:
    """Wardrobe, dresser, sideboard or fridge: a carcase with fronts proud of it."""
    wide, deep = rng.uniform(0.5, 1.8), rng.uniform(0.35, 0.62)
    high = float(rng.choice([rng.uniform(0.6, 1.1), rng.uniform(1.6, 2.15)]))
    skin = wood(rng) if rng.random() < 0.5 else paint(rng, 0.2)
    across = max(1, round(wide / rng.uniform(0.4, 0.7)))
    down = int(rng.integers(1, 5)) if high < 1.3 else int(rng.integers(1, 3))
    knob = metal(rng)
    dark = replace(skin, colour=(skin.colour[0] * 0.4, skin.colour[1] * 0.4, skin.colour[2] * 0.4))
    out = [box(dark, (-wide / 2, wide / 2), (0, deep - 0.02), (0, high - 0.03))]
    out.append(box(skin, (-wide / 2 - 0.01, wide / 2 + 0.01), (0, deep), (high - 0.03, high)))
    for i in range(across):
        for j in range(down):
            x, z = -wide / 2 + i * wide / across, 0.08 + j * (high - 0.12) / down
            right, top = x + wide / across - 0.01, z + (high - 0.12) / down - 0.01
            out.append(box(skin, (x + 0.005, right), (deep - 0.02, deep), (z, top)))
            middle = (x + right) / 2
            out.append(box(knob, (middle - 0.05, middle + 0.05), (deep, deep + 0.025), (top - 0.08, top - 0.065)))
    return out + strewn(rng, (-wide / 2, wide / 2), (0.02, deep), high, int(rng.integers(0, 5)))


def shelves(rng: Rng) -> Piece:
    """An open shelf with books and things."""
    wide, deep, high = rng.uniform(0.5, 1.5), rng.uniform(0.22, 0.4), rng.uniform(0.8, 2.2)
    skin, side = wood(rng) if rng.random() < 0.6 else paint(rng, 0.1), wide / 2
    out = [box(skin, (a, a + 0.025), (0, deep), (0, high)) for a in (-side, side - 0.025)]
    out.append(box(skin, (-side, side), (0, 0.01), (0, high)))
    gaps = max(2, round(high / rng.uniform(0.28, 0.42)))
    for k in range(gaps + 1):
        z = k * (high - 0.025) / gaps
        out.append(box(skin, (-side, side), (0, deep), (z, z + 0.025)))
        room = (high - 0.025) / gaps - 0.03
        if k == gaps:
            continue
        kind = rng.random()
        if kind < 0.6:
            spines = Material(
                tone(rng, (0, 1), (0.1, 0.5), (0.4, 0.8)), cell=(rng.uniform(0.02, 0.05), 50.0), joint=0.003,
                tint=1.2, hue=1.8, grain=0.05,
            )  # fmt: skip
            end = rng.uniform(-0.3, 0.9) * side
            out.append(
                box(spines, (-side + 0.025, end), (0.02, deep * 0.85), (z + 0.025, z + room * rng.uniform(0.6, 0.95)))
            )
        elif kind < 0.9:
            low = [p for p in strewn(rng, (-side, side), (0.03, deep), z + 0.025, 4) if p.centre[2] + p.tall < z + room]
            out += low
    return out


def _screen(rng: Rng, wide: float, z: float, y: float) -> Piece:
    """A flat screen on a foot."""
    black = Material((0.015, 0.015, 0.017), gloss=0.6)
    show = Material(tone(rng, (0.5, 0.7), (0.1, 0.7), (0.2, 0.7)), art=0.8, glow=0.5) if rng.random() < 0.4 else black
    high = wide * 0.58
    return [
        box(black, (-wide / 2, wide / 2), (y, y + 0.03), (z + 0.08, z + 0.08 + high)),
        box(show, (-wide / 2 + 0.015, wide / 2 - 0.015), (y + 0.03, y + 0.032), (z + 0.1, z + 0.065 + high)),
        box(black, (-0.03, 0.03), (y - 0.01, y + 0.02), (z + 0.015, z + 0.15)),
        box(black, (-0.14, 0.14), (y - 0.06, y + 0.14), (z, z + 0.015)),
    ]


def desk(rng: Rng) -> Piece:
    """A desk with a computer or not, a chair in front of it."""
    wide, deep, high = rng.uniform(1.0, 1.8), rng.uniform(0.55, 0.8), rng.uniform(0.7, 0.77)
    top, leg = wood(rng) if rng.random() < 0.6 else paint(rng, 0.1), metal(rng)
    out = [box(top, (-wide / 2, wide / 2), (0.02, deep), (high - 0.03, high))]
    out += legs(leg, wide / 2 - 0.03, (0.05, deep - 0.04), high - 0.03, 0.04)
    if rng.random() < 0.6:
        skin, x = paint(rng, 0.15), wide / 2 - 0.5
        out.append(box(skin, (x, x + 0.4), (0.05, deep - 0.06), (0.05, high - 0.06)))
        for k in range(3):
            z = 0.07 + k * (high - 0.15) / 3
            out.append(box(skin, (x + 0.01, x + 0.39), (deep - 0.06, deep - 0.04), (z, z + (high - 0.15) / 3 - 0.015)))
    if rng.random() < 0.7:
        for x in [0.0] if rng.random() < 0.6 else [-0.32, 0.3]:
            out += placed(_screen(rng, rng.uniform(0.42, 0.6), high, 0.18), x, 0, 0, 0)
        out.append(box(paint(rng, 0.0), (-0.2, 0.22), (deep - 0.22, deep - 0.07), (high, high + 0.02)))
    out += strewn(rng, (-wide / 2, -0.3), (0.08, deep - 0.03), high, 4)
    out += strewn(rng, (0.35, wide / 2), (0.08, deep - 0.03), high, 4)
    if rng.random() < 0.75:
        out += placed(
            chair(rng), rng.uniform(-0.2, 0.2), deep + rng.uniform(0.25, 0.6), 0, math.pi + rng.normal(0, 0.5)
        )
    return out


def chair(rng: Rng) -> Piece:
    """A chair with four legs or one foot; centred, its back at y < 0."""
    seat, back = rng.uniform(0.42, 0.48), rng.uniform(0.78, 1.0)
    half = rng.uniform(0.2, 0.24)
    frame, soft = (wood(rng), fabric(rng)) if rng.random() < 0.6 else (metal(rng), paint(rng, 0.5))
    if rng.random() < 0.75:
        out = legs(frame, half, (-half, half), seat - 0.03, 0.035)
        out += [box(frame, (a, a + 0.035), (-half, -half + 0.03), (seat, back)) for a in (-half, half - 0.035)]
    else:
        out = [
            frustum(frame, (0, 0), (0.06, seat - 0.03), (0.03, 0.03)),
            frustum(frame, (0, 0), (0, 0.06), (0.28, 0.05)),
        ]
    out.append(box(soft, (-half, half), (-half, half), (seat - 0.03, seat + 0.03)))
    low = seat + rng.uniform(0.04, 0.25)
    out.append(box(soft, (-half + 0.03, half - 0.03), (-half, -half + 0.03), (low, back)))
    return out


def table(rng: Rng, low: bool = False) -> Piece:
    """A dining table, or a low one for a sofa; centred; things on it."""
    wide, deep = (
        (rng.uniform(0.7, 1.2), rng.uniform(0.45, 0.7)) if low else (rng.uniform(0.8, 2.0), rng.uniform(0.7, 1.0))
    )
    high = rng.uniform(0.35, 0.48) if low else rng.uniform(0.7, 0.78)
    top = wood(rng) if rng.random() < 0.7 else paint(rng, 0.2)
    leg = top if rng.random() < 0.5 else metal(rng)
    if rng.random() < 0.25:
        radius = deep * 0.6
        out = [
            frustum(top, (0, 0), (high - 0.03, high), (radius, radius)),
            frustum(leg, (0, 0), (0.03, high - 0.03), (0.05, 0.04)),
            frustum(leg, (0, 0), (0, 0.03), (radius * 0.55,) * 2),
        ]
        wide = deep = radius * 1.3
    else:
        out = [box(top, (-wide / 2, wide / 2), (-deep / 2, deep / 2), (high - 0.035, high))]
        out += legs(leg, wide / 2 - 0.04, (-deep / 2 + 0.04, deep / 2 - 0.04), high - 0.035, rng.uniform(0.035, 0.08))
    return out + strewn(rng, (-wide / 2, wide / 2), (-deep / 2, deep / 2), high, int(rng.integers(1, 9)))


def dining(rng: Rng) -> Piece:
    """A table with chairs around it; centred."""
    out = table(rng)
    wide, deep = out[0].half[:2] if out[0].kind == BOX else (out[0].half[0],) * 2
    seat = chair(rng)
    per_side = 2 if wide > 0.6 else 1
    for side in (-1, 1):
        for k in range(per_side):
            if rng.random() < 0.8:
                x = (k - (per_side - 1) / 2) * 0.65 + rng.normal(0, 0.05)
                turn = (0.0 if side < 0 else math.pi) + rng.normal(0, 0.2)
                out += placed(seat, x, side * (deep + rng.uniform(0.02, 0.3)), 0, turn)
    return out


def sofa(rng: Rng) -> Piece:
    """A sofa or armchair with cushions."""
    wide, deep = float(rng.choice([rng.uniform(0.8, 1.0), rng.uniform(1.5, 2.3)])), rng.uniform(0.8, 0.98)
    seat, back, arm = rng.uniform(0.38, 0.46), rng.uniform(0.72, 0.92), rng.uniform(0.1, 0.24)
    skin, side = fabric(rng), wide / 2
    out = [box(skin, (-side + arm, side - arm), (0.1, deep - 0.03), (0.06, seat - 0.13))]
    out.append(box(skin, (-side + arm, side - arm), (0.0, 0.24), (0.06, back)))
    out += [box(skin, (a, a + arm), (0.02, deep), (0.03, seat + 0.14)) for a in (-side, side - arm)]
    count = max(1, round((wide - 2 * arm) / 0.65))
    each = (wide - 2 * arm) / count
    for k in range(count):
        x = -side + arm + k * each
        out.append(box(skin, (x + 0.006, x + each - 0.006), (0.2, deep), (seat - 0.13, seat)))
        out.append(box(skin, (x + 0.01, x + each - 0.01), (0.2, 0.34), (seat, back - 0.06)))
        if rng.random() < 0.5:
            out.append(ellipsoid(fabric(rng), (x + each / 2, 0.42, seat + 0.14), (0.22, 0.09, 0.16)))
    return out


def bed(rng: Rng) -> Piece:
    """A bed, its head at the wall, with night stands or not."""
    wide, long = float(rng.choice([0.95, 1.4, 1.65])), rng.uniform(1.95, 2.1)
    frame, sheet, cover = wood(rng), Material(tone(rng, (0, 1), (0, 0.2), (0.7, 0.97))), fabric(rng)
    side, top = wide / 2, rng.uniform(0.45, 0.6)
    out = [box(frame, (-side - 0.03, side + 0.03), (0.0, 0.05), (0, rng.uniform(0.75, 1.2)))]
    out.append(box(frame, (-side - 0.02, side + 0.02), (0.05, long + 0.03), (0.1, 0.28)))
    out.append(box(sheet, (-side, side), (0.05, long), (0.28, top)))
    out.append(box(cover, (-side - 0.03, side + 0.03), (rng.uniform(0.5, 1.1), long + 0.02), (0.24, top + 0.04)))
    out += legs(frame, side, (0.06, long), 0.1, 0.06)
    for x in [0.0] if wide < 1 else [-0.36, 0.36]:
        out.append(ellipsoid(fabric(rng), (x, 0.28, top + 0.06), (0.32, 0.2, 0.1)))
    for x in (-side - 0.3, side + 0.3):
        if rng.random() < 0.5:
            skin = wood(rng)
            out.append(box(skin, (x - 0.22, x + 0.22), (0.0, 0.4), (0.0, 0.5)))
            out.append(box(skin, (x - 0.2, x + 0.2), (0.4, 0.415), (0.26, 0.46)))
            out += placed(lamp(rng, False), x, 0.2, 0.5, 0)
    return out


def kitchen(rng: Rng) -> Piece:
    """A counter with cupboards below and above."""
    wide, high, deep = rng.uniform(1.5, 3.2), rng.uniform(0.86, 0.94), 0.6
    skin, top = (wood(rng) if rng.random() < 0.5 else paint(rng, 0.25)), replace(wood(rng), gloss=0.6)
    front = replace(skin, cell=(0.5, 50.0), joint=0.012, second=(0.02, 0.02, 0.02))
    side = wide / 2
    out = [
        box(Material((0.02, 0.02, 0.02)), (-side, side), (0, deep - 0.06), (0, 0.1)),
        box(front, (-side, side), (0, deep - 0.02), (0.1, high - 0.035)),
        box(top, (-side, side), (0, deep), (high - 0.035, high)),
        box(replace(front, cell=(0.4, 50.0)), (-side, side), (0, 0.34), (1.4, 2.1)),
    ]
    x = rng.uniform(-side + 0.4, side - 0.4)
    out.append(box(metal(rng), (x - 0.25, x + 0.25), (0.1, 0.5), (high, high + 0.008)))
    out += [
        box(metal(rng), (a, a + 0.12), (deep - 0.02, deep + 0.005), (high - 0.1, high - 0.085))
        for a in np.arange(-side + 0.2, side - 0.2, 0.5)
    ]
    return (
        out
        + strewn(rng, (-side, x - 0.25), (0.03, deep), high, 5)
        + strewn(rng, (x + 0.25, side), (0.03, deep), high, 5)
    )


def screen_stand(rng: Rng) -> Piece:
    """A television on a low board."""
    wide, skin = rng.uniform(1.0, 1.8), wood(rng)
    out = [box(skin, (-wide / 2, wide / 2), (0.02, 0.42), (0.08, 0.45))]
    out += [
        box(skin, (x, x + wide / 3 - 0.02), (0.42, 0.435), (0.1, 0.43)) for x in np.linspace(-wide / 2, wide / 6, 3)
    ]
    return out + _screen(rng, rng.uniform(0.7, 1.25), 0.45, 0.2)


AT_WALL: dict[str, Callable[[Rng], Piece]] = {
    "cabinet": cabinet,
    "shelves": shelves,
    "desk": desk,
    "sofa": sofa,
    "bed": bed,
    "kitchen": kitchen,
    "screen": screen_stand,
}
"""Pieces that stand with their backs to a wall."""

IN_ROOM: dict[str, Callable[[Rng], Piece]] = {
    "dining": dining,
    "table": table,
    "low table": lambda rng: table(rng, low=True),
    "chair": chair,
    "plant": plant,
    "lamp": lamp,
    "clutter": clutter,
    "sofa": sofa,
}
"""Pieces that stand anywhere."""
