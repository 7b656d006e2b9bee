"""Where light does not reach: shadows of a lamp, and corners and contacts where little light arrives from around.

Legend: P pixels.
"""

from __future__ import annotations

import math

import numpy as np

from spd.data.rooms.cast import ELLIPSOID, F32, FRUSTUM, View, cast
from spd.data.rooms.scene import Light, Scene

SHADOW_SIZE = 192
"""Side of the shadow map in texels; about 2 cm each on the floor."""

CELL = 0.06
"""Metres; cell of the plan of what stands on the floor."""


def floor_plan(scene: Scene) -> F32:
    """How much stands on or hangs over the floor, blurred: float32 [rows along y, columns along x], 0..1."""
    solids = scene.solids
    plan = np.zeros((int(scene.size[1] / CELL) + 3, int(scene.size[0] / CELL) + 3), np.float32)
    half = solids.half.copy()
    frusta = solids.kind == FRUSTUM
    half[frusta, :2] = half[frusta, :2].max(axis=1, keepdims=True)
    cos, sin = np.abs(solids.turn.T)
    reach = np.stack([half[:, 0] * cos + half[:, 1] * sin, half[:, 0] * sin + half[:, 1] * cos], axis=1)
    share = np.where(solids.kind == ELLIPSOID, 0.7, 0.9)[:, None]
    low = ((solids.centre[:, :2] - reach * share) / CELL + 0.5).astype(int).clip(0)
    high = ((solids.centre[:, :2] + reach * share) / CELL + 0.5).astype(int).clip(0)
    under = solids.centre[:, 2] - half[:, 2]
    weight = np.exp(-np.maximum(under, 0) / 0.5) * np.minimum(1, (solids.centre[:, 2] + half[:, 2]) / 0.15)
    for k in range(1, len(half)):
        if weight[k] > 0.1:
            cells = plan[low[k, 1] : high[k, 1] + 1, low[k, 0] : high[k, 0] + 1]
            np.maximum(cells, weight[k], out=cells)
    wide = 7
    for axis in (0, 1, 0, 1):
        ends = [(wide // 2 + 1, wide // 2) if a == axis else (0, 0) for a in (0, 1)]
        sums = np.swapaxes(np.cumsum(np.pad(plan, ends, mode="edge"), axis=axis), 0, axis)
        plan = np.swapaxes((sums[wide:] - sums[:-wide]) * np.float32(1 / wide), 0, axis)
    return np.ascontiguousarray(plan)


def openness(scene: Scene, plan: F32, point: F32) -> F32:
    """Share of the ambient light that arrives, float32 [P]: less in corners and near what stands on the floor."""
    dark = np.ones(point.shape[1], np.float32)
    for axis, size in enumerate(scene.size):
        gap = np.minimum(point[axis], size - point[axis])
        np.maximum(gap, 0, out=gap)
        dark *= 1 - 0.33 * np.exp(gap * -4)
    low = np.flatnonzero(point[2] < 0.4)
    if low.size:
        x, y, z = point[:, low]
        column, row = np.clip(x / CELL, 0, plan.shape[1] - 2), np.clip(y / CELL, 0, plan.shape[0] - 2)
        j, i = column.astype(np.int32), row.astype(np.int32)
        a, b = column - j.astype(np.float32), row - i.astype(np.float32)
        start, flat = i * plan.shape[1] + j, plan.ravel()
        top = flat.take(start) * (1 - a) + flat.take(start + 1) * a
        start += plan.shape[1]
        full = top * (1 - b) + (flat.take(start) * (1 - a) + flat.take(start + 1) * a) * b
        dark[low] *= 1 - 0.75 * full * np.exp(z * -8)
    return dark


def _view_from(light: Light, scene: Scene, point: F32) -> View:
    """A camera at the light that just covers what the picture shows of the part of the world before it."""
    eye = np.array(light.position)
    goal = np.array([scene.size[0] / 2, scene.size[1] / 2, 0.2])
    if math.hypot(*(goal - eye)[:2]) < 0.45 * scene.size[2]:
        goal = np.array([eye[0], eye[1], 0.0])
    forward = (goal - eye) / np.linalg.norm(goal - eye)
    right = np.cross(forward, [0.0, 0.0, 1.0]) if abs(forward[2]) < 0.9 else np.array([1.0, 0.0, 0.0])
    right /= np.linalg.norm(right)
    axes = np.stack([right, np.cross(forward, right), forward])
    some = axes @ (point[:, :: max(1, point.shape[1] // 2000)] - eye[:, None])
    some = some[:, some[2] > 0.3]
    if some.shape[1] == 0:
        some = np.array([[0.0], [0.0], [1.0]])
    # Beyond 70 degrees off the axis texels become too long to be of use.
    low = np.clip((some[:2] / some[2]).min(axis=1) - 0.05, -2.7, 2.6)
    high = np.clip((some[:2] / some[2]).max(axis=1) + 0.05, low + 0.1, 2.7)
    fx, fy = SHADOW_SIZE / (high - low)
    intrinsics = (float(fx), float(fy), float(-low[0] * fx), float(-low[1] * fy))
    return View(eye.astype(np.float32), axes.astype(np.float32), intrinsics, SHADOW_SIZE, SHADOW_SIZE)


class Shadow:
    """Which points a light reaches, from a depth image taken at the light."""

    def __init__(self, light: Light, scene: Scene, point: F32) -> None:
        """`point`: [3, any] metres, some of the points that will be asked for."""
        self.view = _view_from(light, scene, point)
        # Knobs and the like are thinner than the texels.
        self.reach: F32 = cast(scene.solids, self.view, self.view.rays(), least=0.02).depth.ravel()

    def spread(self) -> tuple[float, float]:
        """How far to look around for soft edges, in texels: the size of the lamp, some 6 cm at 2 m."""
        return 0.03 * self.view.intrinsics[0] + 1, 0.03 * self.view.intrinsics[1] + 1

    def lit(self, point: F32, normal: F32, jitter: list[tuple[F32, F32]]) -> F32:
        """Share of the light that reaches each point, float32 [P]: the mean over the jittered samples."""
        fx, fy, cx, cy = self.view.intrinsics
        # The point stands off its surface by 3 cm, so that the texels of the map do not shade the surface itself.
        px, py, pz = (normal[k] * np.float32(0.03) + (point[k] - self.view.origin[k]) for k in range(3))
        # Not `@`: it would start threads.
        x, y, z = (row[0] * px + row[1] * py + row[2] * pz for row in self.view.axes)
        near = 1 / np.maximum(z, np.float32(0.1))
        u = x * near * np.float32(fx) + np.float32(cx)
        v = y * near * np.float32(fy) + np.float32(cy)
        outside = (z < 0.1) | (u < 0) | (u > SHADOW_SIZE) | (v < 0) | (v > SHADOW_SIZE)
        z -= np.float32(0.05)
        lit = np.zeros(len(z), np.float32)
        for du, dv in jitter:
            column = np.clip(u + du, 0, SHADOW_SIZE - 1).astype(np.int32)
            row = np.clip(v + dv, 0, SHADOW_SIZE - 1).astype(np.int32)
            row *= SHADOW_SIZE
            row += column
            lit += self.reach.take(row) > z
        lit *= np.float32(1 / len(jitter))
        lit[outside] = 1
        return lit


def jitter(shape: tuple[int, int], wide: float, high: float) -> list[tuple[F32, F32]]:
    """Two offsets per pixel, [P] each, from a pattern of 4 x 4 pixels within `wide` and `high`; its mean is zero."""
    turns = (np.array([0, 8, 2, 10, 12, 4, 14, 6, 3, 11, 1, 9, 15, 7, 13, 5]) + 0.5) * (math.tau / 16)
    radii = np.sqrt((np.array([3, 11, 7, 15, 13, 1, 9, 5, 6, 14, 4, 12, 8, 0, 10, 2]) + 0.5) / 16)
    repeats = (-(-shape[0] // 4), -(-shape[1] // 4))
    out = []
    for turn in (0.0, math.pi):
        pair = (radii * np.cos(turns + turn) * wide, radii * np.sin(turns + turn) * high)
        tiles = [np.tile(o.astype(np.float32).reshape(4, 4), repeats)[: shape[0], : shape[1]].ravel() for o in pair]
        out.append((tiles[0], tiles[1]))
    return out


def mean5(values: F32) -> F32:
    """Means over 5 x 5 pixels of [H, W]; the edge is repeated."""
    padded = np.pad(values, ((2, 2), (0, 0)), mode="edge")
    rows = padded[:-4] + padded[1:-3] + padded[2:-2] + padded[3:-1] + padded[4:]
    padded = np.pad(rows, ((0, 0), (2, 2)), mode="edge")
    total: F32 = padded[:, :-4] + padded[:, 1:-3] + padded[:, 2:-2] + padded[:, 3:-1] + padded[:, 4:]
    total *= 0.04
    return total
