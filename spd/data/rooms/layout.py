"""Puts furniture into a room so that pieces stand on the floor, at walls or free, and not inside one another."""

from __future__ import annotations

import math

import numpy as np

from spd.data.rooms.camera import CLEAR, Pose
from spd.data.rooms.furniture import AT_WALL, IN_ROOM
from spd.data.rooms.materials import metal, paint, pick, wood
from spd.data.rooms.parts import Piece, box, footprint, frustum, placed
from spd.data.rooms.textures import Material
from spd.data.rooms.walls import decorated

Rng = np.random.Generator
Area = tuple[float, float, float, float]

KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "living": (("sofa", "screen", "shelves", "cabinet"), ("low table", "plant", "lamp", "sofa", "clutter", "chair")),
    "bed": (("bed", "cabinet", "desk", "shelves"), ("clutter", "chair", "plant", "lamp")),
    "office": (("desk", "desk", "shelves", "cabinet"), ("clutter", "chair", "table", "plant")),
    "kitchen": (("kitchen", "kitchen", "cabinet"), ("dining", "table", "clutter")),
    "dining": (("cabinet", "shelves", "screen"), ("dining", "dining", "plant", "chair")),
    "store": (("shelves", "cabinet", "shelves"), ("clutter", "clutter", "clutter", "table")),
    "class": (("shelves", "cabinet", "desk"), ("table", "table", "chair", "chair", "dining")),
}
"""Kinds of rooms: what stands at their walls and what elsewhere."""


class Furnisher:
    """Fills one room; remembers which floor is taken."""

    def __init__(self, rng: Rng, size: tuple[float, float, float], pose: Pose) -> None:
        self.rng = rng
        self.size = size
        self.pose = pose
        self.taken: list[Area] = []
        self.parts: Piece = []
        self.trim = paint(rng, 0.1) if rng.random() < 0.5 else wood(rng)

    def free(self, area: Area, gap: float = 0.03) -> bool:
        """Whether nothing stands there, it is inside the room, and the camera is not too near."""
        x0, x1, y0, y1 = area
        if x0 < 0 or y0 < 0 or x1 > self.size[0] or y1 > self.size[1]:
            return False
        x, y, _ = self.pose.place
        if math.hypot(max(x0 - x, x - x1, 0), max(y0 - y, y - y1, 0)) < CLEAR:
            return False
        return all(x1 + gap < a0 or x0 - gap > a1 or y1 + gap < b0 or y0 - gap > b1 for a0, a1, b0, b1 in self.taken)

    def put(self, piece: Piece) -> bool:
        """Add a piece where it is, if there is room."""
        area = footprint(piece)
        if not self.free(area):
            return False
        self.taken.append(area)
        self.parts += piece
        return True

    def wall_frame(self, wall: int) -> tuple[float, float, float, float]:
        """(x, y, turn, length): the left end of a wall as seen with one's back to it, and the turn of a piece there."""
        x, y, _ = self.size
        return ((0.0, 0.0, 0.0, x), (x, 0.0, math.pi / 2, y), (x, y, math.pi, x), (0.0, y, -math.pi / 2, y))[wall]

    def decorate(self, wall: int) -> list[tuple[float, float, float]]:
        """Hang things on a wall; returns where light comes in through its windows."""
        x, y, turn, length = self.wall_frame(wall)
        piece, windows = decorated(self.rng, length, self.trim)
        self.parts += placed(piece, x, y, 0.0, turn)
        cos, sin = math.cos(turn), math.sin(turn)
        return [(x + at * cos - 0.25 * sin, y + at * sin + 0.25 * cos, 1.6) for at in windows]

    def at_wall(self, piece: Piece, wall: int, along: float) -> Piece:
        """A piece with its back to a wall, its middle at `along` metres from the wall's left end."""
        x, y, turn, _ = self.wall_frame(wall)
        return placed(piece, x + along * math.cos(turn), y + along * math.sin(turn), 0.0, turn)

    def in_sight(self, wall: int, along: float) -> bool:
        """Whether furniture there may be in the picture; what is not is not built, a third of the time of a scene."""
        x, y, turn, _ = self.wall_frame(wall)
        dx = x + along * math.cos(turn) - 0.4 * math.sin(turn) - self.pose.place[0]
        dy = y + along * math.sin(turn) + 0.4 * math.cos(turn) - self.pose.place[1]
        ahead = dx * math.cos(self.pose.yaw) + dy * math.sin(self.pose.yaw)
        aside = abs(dy * math.cos(self.pose.yaw) - dx * math.sin(self.pose.yaw))
        return aside < (ahead + 0.5) * math.tan(self.pose.fov / 2) + 1.2

    def line_wall(self, wall: int, names: tuple[str, ...]) -> None:
        """Furniture side by side along a wall, with gaps."""
        along, length = self.rng.uniform(0, 0.8), self.wall_frame(wall)[3]
        while along < length - 0.5:
            if not self.in_sight(wall, along + 0.7):
                along += 1.0
                continue
            piece = AT_WALL[pick(self.rng, *names)](self.rng)
            low, high, _, _ = footprint(piece)
            if self.put(self.at_wall(placed(piece, 0, 0.025, 0, 0), wall, along - low)):
                along += high - low
            along += self.rng.uniform(0.05, 0.9)

    def scatter(self, names: tuple[str, ...], count: int, farthest: float = 4.5) -> None:
        """Furniture before the camera, 0.8 m to `farthest` metres from it, mostly in line with the walls."""
        x, y, _ = self.pose.place
        for _ in range(count):
            piece = IN_ROOM[pick(self.rng, *names)](self.rng)
            turn = int(self.rng.integers(4)) * math.pi / 2
            if self.rng.random() < 0.35:
                turn += self.rng.normal(0, 0.4)
            for _ in range(4):
                yaw, far = self.pose.yaw + self.rng.normal(0, 0.45), self.rng.uniform(0.8, farthest)
                if self.put(placed(piece, x + far * math.cos(yaw), y + far * math.sin(yaw), 0, turn)):
                    break

    def divide(self, skin: Material) -> None:
        """A wall across the room, unless it would be near the camera; if ahead, with its opening about in sight."""
        rng, (x, y, z), (eye_x, eye_y, _) = self.rng, self.size, self.pose.place
        at, left, wide = rng.uniform(0.25, 0.75) * y, rng.uniform(0.4, x - 1.4), rng.uniform(0.8, 1.6)
        ahead = (at - eye_y) / (math.sin(self.pose.yaw) or 1e-9)
        if 0 < ahead < 8:
            left = eye_x + ahead * math.cos(self.pose.yaw) + rng.normal(0, 0.5) - wide / 2
        # From nearer than this it may fill the whole picture.
        if abs(at - eye_y) < 2.0 or not 0.1 < left < x - wide - 0.1:
            return
        walls = [(0.0, left), (left + wide, x)]
        if all(self.put([box(skin, span, (at, at + 0.12), (0, z))]) for span in walls):
            self.parts.append(box(skin, (left, left + wide), (at, at + 0.12), (rng.uniform(2.0, 2.2), z)))
            self.taken.append((left, left + wide, at - 0.5, at + 0.6))
            for low, high in walls:
                piece, _ = decorated(rng, high - low, self.trim)
                self.parts += placed(piece, low, at + 0.12, 0, 0) if eye_y > at else placed(piece, high, at, 0, math.pi)

    def overhead(self) -> list[tuple[float, float, float]]:
        """Lamps on the ceiling, perhaps beams; returns where they shine from."""
        rng, (x, y, z) = self.rng, self.size
        glow = Material((0.95, 0.95, 0.9), glow=rng.uniform(1.5, 4.0))
        kind, spots = pick(rng, "panels", "bowl", "pendant", "hidden"), []
        if kind == "panels":
            spots = [(a, b, z - 0.15) for a in np.arange(0.9, x, 2.2).tolist() for b in np.arange(1.0, y, 2.4).tolist()]
            self.parts += [box(glow, (a - 0.3, a + 0.3), (b - 0.6, b + 0.6), (z - 0.015, z)) for a, b, _ in spots]
            return [spots[int(rng.integers(len(spots)))], (x / 2, y / 2, z - 0.3)]
        at = (x * rng.uniform(0.35, 0.65), y * rng.uniform(0.35, 0.65))
        drop = 0.1 if kind != "pendant" else rng.uniform(0.4, 0.8)
        if kind == "bowl":
            self.parts.append(frustum(glow, at, (z - 0.1, z), (0.12, 0.2)))
        if kind == "pendant" and math.hypot(at[0] - self.pose.place[0], at[1] - self.pose.place[1]) > 1.0:
            self.parts.append(frustum(glow, at, (z - drop, z - drop + 0.2), (0.2, 0.06)))
            self.parts.append(frustum(metal(rng), at, (z - drop + 0.2, z), (0.008, 0.008)))
        return [(*at, z - drop - 0.1)]
