"""Solids in the making: boxes, frusta and ellipsoids in a frame of their own, in metres."""

from __future__ import annotations

import math
from typing import NamedTuple

from spd.data.rooms.cast import BOX, ELLIPSOID, FRUSTUM
from spd.data.rooms.textures import Material


class Part(NamedTuple):
    """One solid, before the scene is put into arrays."""

    kind: int
    centre: tuple[float, float, float]
    half: tuple[float, float, float]
    """As in `Solids.half`."""
    turn: float
    """Radians about z."""
    skin: Material

    @property
    def reach(self) -> tuple[float, float]:
        """Half sizes along the world's x and y, metres."""
        x, y = self.half[:2] if self.kind != FRUSTUM else (max(self.half[:2]),) * 2
        cos, sin = abs(math.cos(self.turn)), abs(math.sin(self.turn))
        return (x * cos + y * sin, x * sin + y * cos)

    @property
    def tall(self) -> float:
        """Half the height, metres."""
        return self.half[2]


Piece = list[Part]
Span = tuple[float, float]


def box(skin: Material, x: Span, y: Span, z: Span, turn: float = 0.0) -> Part:
    """A box from its extents, turned about its own middle."""
    centre = ((x[0] + x[1]) / 2, (y[0] + y[1]) / 2, (z[0] + z[1]) / 2)
    return Part(BOX, centre, ((x[1] - x[0]) / 2, (y[1] - y[0]) / 2, (z[1] - z[0]) / 2), turn, skin)


def frustum(skin: Material, at: tuple[float, float], z: Span, radii: Span) -> Part:
    """A cylinder or cone stump from its bottom and top radius."""
    return Part(FRUSTUM, (at[0], at[1], (z[0] + z[1]) / 2), (radii[0], radii[1], (z[1] - z[0]) / 2), 0.0, skin)


def ellipsoid(skin: Material, centre: tuple[float, float, float], half: tuple[float, float, float]) -> Part:
    """An ellipsoid."""
    return Part(ELLIPSOID, centre, half, 0.0, skin)


def placed(piece: Piece, x: float, y: float, z: float, turn: float) -> Piece:
    """The piece turned by `turn` radians about its origin, then moved to (x, y, z)."""
    cos, sin = math.cos(turn), math.sin(turn)
    return [
        Part(kind, (x + cos * a - sin * b, y + sin * a + cos * b, z + c), half, own + turn, skin)
        for kind, (a, b, c), half, own, skin in piece
    ]


def footprint(piece: Piece) -> tuple[float, float, float, float]:
    """The floor it covers: (x low, x high, y low, y high), metres."""
    spans = [(part.centre, part.reach) for part in piece]
    return (
        min(c[0] - r[0] for c, r in spans),
        max(c[0] + r[0] for c, r in spans),
        min(c[1] - r[1] for c, r in spans),
        max(c[1] + r[1] for c, r in spans),
    )


def legs(skin: Material, x: float, y: tuple[float, float], high: float, thick: float) -> Piece:
    """Four legs inside |x| <= x."""
    return [box(skin, (a, a + thick), (b, b + thick), (0, high)) for a in (-x, x - thick) for b in (y[0], y[1] - thick)]
