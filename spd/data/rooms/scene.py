"""Furnishes a room at random and puts a camera and lights into it.

The room covers 0 <= x <= size x, 0 <= y <= size y, 0 <= z <= size z, in metres. The camera is chosen first and
furniture keeps clear of it, so no picture is taken from inside a wardrobe.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spd.data.rooms import materials
from spd.data.rooms.camera import choose_pose
from spd.data.rooms.cast import BOX, F32, FRUSTUM, Solids, View
from spd.data.rooms.layout import KINDS, Furnisher
from spd.data.rooms.parts import Part, Piece
from spd.data.rooms.textures import Material

Rng = np.random.Generator


@dataclass(frozen=True)
class Light:
    """A lamp without size; the shadow's softness is the shading's affair."""

    position: tuple[float, float, float]
    """Metres."""
    colour: tuple[float, float, float]
    """Strength, linear RGB, at no distance."""


@dataclass(frozen=True)
class Scene:
    """Everything that a picture shows, whatever its size in pixels."""

    solids: Solids
    size: tuple[float, float, float]
    """Size of the room, metres."""
    materials: list[Material]
    lights: tuple[Light, ...]
    """The first casts shadows."""
    ambient: tuple[float, float, float]
    """Light from everywhere, linear RGB."""
    origin: F32
    """[3] the camera, metres."""
    axes: F32
    """[3, 3] as in `View.axes`."""
    fov: float
    """Field of view along the longer side of the picture, radians: a camera held upright keeps its lens."""

    def view(self, height: int, width: int) -> View:
        """The scene's camera for an image size in pixels: square pixels, optical axis through the middle."""
        focal = max(width, height) / 2 / math.tan(self.fov / 2)
        return View(self.origin, self.axes, (focal, focal, width / 2, height / 2), height, width)


def _solids(
    size: tuple[float, float, float], shell: tuple[Material, ...], parts: Piece
) -> tuple[Solids, list[Material]]:
    """The room and its parts as arrays, and the list of materials they index."""
    half = (size[0] / 2, size[1] / 2, size[2] / 2)
    everything = [Part(BOX, half, half, 0.0, shell[0]), *parts]
    numbers = {id(material): number for number, material in enumerate(shell)}
    materials = list(shell)
    index = np.empty((len(everything), 6), np.int16)
    for row, part in enumerate(everything):
        number = numbers.setdefault(id(part.skin), len(materials))
        if number == len(materials):
            materials.append(part.skin)
        index[row] = number
    index[0] = [numbers[id(material)] for material in shell]
    kinds = np.array([part.kind for part in everything], np.int8)
    halves = np.array([part.half for part in everything], np.float32)
    turn = np.array([part.turn for part in everything])
    # Nine tenths of the pieces stand in line with the room; without a turn they cost a third less to cast.
    quarters = np.round(turn / (math.pi / 2))
    straight = (np.abs(turn - quarters * (math.pi / 2)) < 1e-6) | (kinds == FRUSTUM)
    swapped = straight & (quarters % 2 == 1) & (kinds != FRUSTUM)
    halves[swapped, :2] = halves[swapped, 1::-1]
    turn[straight] = 0
    axes = np.stack([np.cos(turn), np.sin(turn)], axis=1).astype(np.float32)
    centres = np.array([part.centre for part in everything], np.float32)
    return Solids(kinds, centres, halves, axes, index, _lengthwise(kinds, halves, index, materials)), materials


def _lengthwise(
    kinds: npt.NDArray[np.int8], halves: F32, index: npt.NDArray[np.int16], materials: list[Material]
) -> npt.NDArray[np.bool_]:
    """`Solids.lengthwise`: woods on the sides of boxes whose second side is the longer."""
    grained = np.array([material.grain_size[0] != material.grain_size[1] for material in materials])
    x, y, z = halves.T
    longer = np.stack([z > y, z > y, z > x, z > x, y > x, y > x], axis=1)
    out: npt.NDArray[np.bool_] = longer & grained[index] & (kinds == BOX)[:, None]
    out[0] = False
    return out


def _lights(
    rng: Rng, lamps: list[tuple[float, float, float]], windows: list[tuple[float, float, float]]
) -> tuple[Light, ...]:
    """The lamps and up to two windows, one of them the brightest."""
    warm = (1.0, rng.uniform(0.78, 1.0), rng.uniform(0.55, 1.0))
    cool = (rng.uniform(0.8, 1.0), rng.uniform(0.9, 1.0), 1.0)
    day = rng.uniform(0.3, 2.0)
    lights = [Light(at, warm) for at in lamps[:2]]
    lights += [Light(at, (cool[0] * day, cool[1] * day, cool[2] * day)) for at in windows[:2]]
    first = int(rng.integers(len(lights)))
    lights[0], lights[first] = lights[first], lights[0]
    boost, (red, green, blue) = rng.uniform(1.0, 2.5), lights[0].colour
    lights[0] = Light(lights[0].position, (red * boost, green * boost, blue * boost))
    return tuple(lights)


def build_scene(seed: int) -> Scene:
    """The scene of a seed; the same for every image size."""
    rng = np.random.default_rng([seed, 1])
    kind = materials.pick(rng, *KINDS)
    size = (rng.uniform(3.0, 7.5), rng.uniform(3.5, 9.5), float(np.clip(rng.normal(2.6, 0.25), 2.25, 3.6)))
    if rng.random() < 0.1:  # corridor
        size = (rng.uniform(1.8, 2.6), rng.uniform(5.0, 9.0), size[2])
    close = bool(rng.random() < 0.28)
    pose = choose_pose(rng, size, close)
    wall = materials.wall(rng)
    walls = tuple(materials.wall(rng) if rng.random() < 0.2 else wall for _ in range(4))
    house = Furnisher(rng, size, pose)
    if size[1] > 5 and rng.random() < 0.5:
        house.divide(wall)
    lamps = house.overhead()
    windows = [at for side in range(4) for at in house.decorate(side)]
    at_wall, in_room = KINDS[kind]
    if close:
        house.scatter(("table", "dining", "table", "low table"), 2, farthest=1.8)
    for side in rng.permutation(4).tolist():
        if rng.random() < 0.8:
            house.line_wall(side, at_wall)
    house.scatter(in_room, int(rng.integers(2, 8)))
    house.scatter(("clutter",), int(rng.integers(0, 6)))
    shell = (walls[0], walls[1], walls[2], walls[3], materials.floor(rng), materials.ceiling(rng))
    solids, skins = _solids(size, shell, house.parts)
    ambient = rng.uniform(0.2, 0.6)
    return Scene(
        solids, size, skins, _lights(rng, lamps, windows),
        (ambient, ambient * rng.uniform(0.9, 1.0), ambient * rng.uniform(0.8, 1.05)),
        np.array(pose.place, np.float32), pose.axes(), pose.fov,
    )  # fmt: skip
