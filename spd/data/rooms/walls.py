"""What hangs on walls: doors, windows, pictures, boards, shelves, skirting.

Every piece is in the frame of its wall, in metres: x along the wall, y = 0 on the wall and y > 0 in the room, z up from
the floor.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from spd.data.rooms.materials import anything, fabric, metal, paint, pick, tone, wood
from spd.data.rooms.parts import Piece, box, placed
from spd.data.rooms.textures import Material

Rng = np.random.Generator


def decorated(rng: Rng, length: float, trim: Material) -> tuple[Piece, list[float]]:
    """Everything on a wall of a length in metres, and the x of the windows' middles; `trim` is the frames' material."""
    out: Piece = [box(trim, (0, length), (0, 0.015), (0, 0.09))]
    windows: list[float] = []
    along = rng.uniform(0.2, 1.0)
    while along < length - 0.5:
        kind = pick(rng, "door", "window", "picture", "picture", "board", "shelf", "bare", "bare")
        wide = {"door": 0.9, "window": rng.uniform(0.7, 1.8), "board": rng.uniform(0.8, 2.0)}.get(kind, 0.6)
        if kind != "bare" and along + wide < length:
            make = {"door": _door, "window": _window, "shelf": _shelf, "picture": _picture, "board": _board}[kind]
            out += placed(make(rng, wide / 2, trim), along + wide / 2, 0, 0, 0)
            if kind == "window":
                windows.append(along + wide / 2)
        along += wide + rng.uniform(0.1, 1.2)
    return out, windows


def _door(rng: Rng, half: float, trim: Material) -> Piece:
    """A closed door in its frame."""
    leaf = wood(rng) if rng.random() < 0.5 else paint(rng, 0.1)
    out = [box(leaf, (-half + 0.05, half - 0.05), (0, 0.02), (0.005, 2.02))]
    out += [box(trim, (a, a + 0.06), (0, 0.035), (0, 2.08)) for a in (-half, half - 0.06)]
    out.append(box(trim, (-half, half), (0, 0.035), (2.02, 2.09)))
    out.append(box(metal(rng), (half - 0.2, half - 0.09), (0.02, 0.06), (1.0, 1.03)))
    if rng.random() < 0.5:
        out += [box(leaf, (-half + 0.15, half - 0.15), (0.02, 0.03), z) for z in ((0.2, 0.9), (1.1, 1.9))]
    return out


def _picture(rng: Rng, half: float, _: Material) -> Piece:
    """A framed picture."""
    across, high, z, edge = (
        rng.uniform(0.12, half),
        rng.uniform(0.25, 0.8),
        rng.uniform(1.2, 1.5),
        rng.uniform(0.01, 0.05),
    )
    sheet = Material(tone(rng, (0, 1), (0, 0.5), (0.3, 0.95)), art=rng.uniform(0.4, 1.1), gloss=0.3)
    return [
        box(paint(rng, 0.2), (-across, across), (0, 0.02), (z, z + high)),
        box(sheet, (-across + edge, across - edge), (0, 0.024), (z + edge, z + high - edge)),
    ]


def _board(rng: Rng, half: float, _: Material) -> Piece:
    """A white board, black board or pin board with sheets."""
    z, high, edge = rng.uniform(0.85, 1.1), rng.uniform(0.7, 1.2), 0.03
    colour = pick(rng, "white", "dark", "cork")
    skin = {
        "white": Material((0.85, 0.86, 0.86), gloss=0.7, blotch=0.02),
        "dark": Material(tone(rng, (0.3, 0.45), (0, 0.4), (0.1, 0.3)), blotch=0.1),
        "cork": Material(tone(rng, (0.07, 0.1), (0.3, 0.6), (0.4, 0.7)), grain=0.1, grain_size=(0.01, 0.01)),
    }[colour]
    out = [
        box(metal(rng) if rng.random() < 0.5 else wood(rng), (-half, half), (0, 0.02), (z, z + high)),
        box(skin, (-half + edge, half - edge), (0, 0.024), (z + edge, z + high - edge)),
    ]
    for _k in range(int(rng.integers(0, 7))):
        x, low = rng.uniform(-half + 0.05, half - 0.3), rng.uniform(z + 0.05, z + high - 0.35)
        sheet = Material(tone(rng, (0, 1), (0, 0.4), (0.7, 1)), art=rng.uniform(0, 0.5))
        out.append(box(sheet, (x, x + rng.uniform(0.1, 0.22)), (0.0, 0.026), (low, low + rng.uniform(0.15, 0.3))))
    return out


def _shelf(rng: Rng, half: float, _: Material) -> Piece:
    """A board with books and jars."""
    z, x = rng.uniform(1.2, 1.7), -half
    out = [box(wood(rng), (-half, half), (0, 0.22), (z, z + 0.03))]
    z += 0.03
    while x < half - 0.12:
        wide, high = rng.uniform(0.03, 0.12), rng.uniform(0.1, 0.28)
        if rng.random() < 0.6:
            out.append(box(anything(rng), (x, x + wide), (0.03, 0.18), (z, z + high)))
        x += wide + rng.uniform(0.0, 0.08)
    return out


def _window(rng: Rng, half: float, trim: Material) -> Piece:
    """Panes, bars, a sill, perhaps curtains and a radiator."""
    low, high = rng.uniform(0.6, 1.0), rng.uniform(1.9, 2.2)
    night = rng.random() < 0.2
    view = tone(rng, (0.3, 0.65), (0.05, 0.5), (0.05, 0.2) if night else (0.6, 1.0))
    pane = Material(view, art=rng.uniform(0, 0.5), glow=0.15 if night else rng.uniform(0.8, 4.0), gloss=0.5)
    out = [box(pane, (-half, half), (0, 0.01), (low, high))]
    out += [box(trim, (a, a + 0.06), (0, 0.04), (low - 0.03, high + 0.03)) for a in (-half - 0.03, -0.03, half - 0.03)]
    out += [box(trim, (-half, half), (0, 0.04), (z, z + 0.06)) for z in (low - 0.03, high - 0.03)]
    out.append(box(trim, (-half - 0.05, half + 0.05), (0, 0.15), (low - 0.06, low - 0.03)))
    if rng.random() < 0.4:
        cloth = replace(fabric(rng), cell=(rng.uniform(0.07, 0.13), 50.0), fold=0.6, checker=0.0)
        bottom = 0.05 if rng.random() < 0.5 else low - 0.1
        out += [box(cloth, (a, a + 0.32), (0.05, 0.11), (bottom, high + 0.1)) for a in (-half - 0.22, half - 0.1)]
    elif rng.random() < 0.3:
        fins = replace(paint(rng, 0.0), cell=(0.06, 50.0), fold=0.7)
        out.append(box(fins, (-half, half), (0.03, 0.11), (0.12, low - 0.15)))
    return out
