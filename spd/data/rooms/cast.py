"""Casts the rays of a pinhole camera at boxes, vertical frusta and ellipsoids; exact depth along the optical axis.

World: metres, x and y on the floor, z up. A ray of a `View` is `origin + t * direction` with `direction . forward = 1`,
so `t` is the depth along the optical axis. Legend: N solids, H rows, W columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]

BOX, FRUSTUM, ELLIPSOID = 0, 1, 2
CURVED = 3
"""The `Hits.face` of a point with a curved surface; 0, 1 and 2 are planes across the solid's own x, y and z."""

NEAR = 0.05
"""Metres; nothing nearer to the camera's plane is seen."""

_CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float64)
_EDGES = np.array([(i, j) for i in range(8) for j in range(i + 1, 8) if bin(i ^ j).count("1") == 1])


@dataclass(frozen=True)
class Solids:
    """N solids; the first is the room itself, a box seen from inside."""

    kind: npt.NDArray[np.int8]
    """[N]: `BOX`, `FRUSTUM` or `ELLIPSOID`."""
    centre: F32
    """[N, 3] metres."""
    half: F32
    """[N, 3] metres: half sizes of a box or an ellipsoid; (bottom radius, top radius, half height) of a frustum."""
    turn: F32
    """[N, 2]: cosine and sine of the turn about z, anticlockwise seen from above."""
    material: npt.NDArray[np.int16]
    """[N, 6] indices of materials for the sides -x, +x, -y, +y, -z, +z; curved surfaces have the first."""
    lengthwise: npt.NDArray[np.bool_]
    """[N, 6]: whether textures run along the second axis of the side (of y, z; x, z; x, y) and not along the first."""


@dataclass(frozen=True)
class View:
    """A pinhole camera in the world."""

    origin: F32
    """[3] metres."""
    axes: F32
    """[3, 3]: rows are the unit vectors right, down and forward."""
    intrinsics: tuple[float, float, float, float]
    """(fx, fy, cx, cy) in pixels; pixel (column i, row j) has its centre at (i + 0.5, j + 0.5)."""
    height: int
    width: int

    def rays(self) -> F32:
        """Directions float32 [3, H, W] through the pixel centres, no component exactly zero."""
        fx, fy, cx, cy = self.intrinsics
        a = ((np.arange(self.width) + 0.5 - cx) / fx).astype(np.float32)[None, :]
        b = ((np.arange(self.height) + 0.5 - cy) / fy).astype(np.float32)[:, None]
        right, down, forward = self.axes
        rays = np.stack([forward[k] + a * right[k] + b * down[k] for k in range(3)])
        rays[np.abs(rays) < 1e-7] = 1e-7  # keeps 1 / direction finite
        return rays


class Hits(NamedTuple):
    """What each pixel sees."""

    depth: F32
    """[H, W] metres along the optical axis."""
    solid: npt.NDArray[np.int16]
    """[H, W] index of the solid."""
    face: npt.NDArray[np.int8]
    """[H, W]: 0, 1, 2 for a plane across the solid's own x, y, z; `CURVED`."""


def bounds(solids: Solids, view: View) -> I32:
    """Pixel rectangles int32 [N, 4] (top, bottom, left, right; ends excluded) outside which a solid is not seen."""
    half = solids.half.astype(np.float64)
    frusta = solids.kind == FRUSTUM
    half[frusta, :2] = half[frusta, :2].max(axis=1, keepdims=True)
    corners = half[:, None, :] * _CORNERS
    cos, sin = solids.turn[:, :1], solids.turn[:, 1:]
    x, y = corners[..., 0], corners[..., 1]
    world = np.stack([cos * x - sin * y, sin * x + cos * y, corners[..., 2]], -1) + (
        solids.centre[:, None, :] - view.origin
    )
    seen = world @ view.axes.T.astype(np.float64)
    start, end = seen[:, _EDGES[:, 0]], seen[:, _EDGES[:, 1]]
    step = end[..., 2] - start[..., 2]
    crosses = (start[..., 2] < NEAR) != (end[..., 2] < NEAR)
    share = (NEAR - start[..., 2]) / np.where(crosses, step, 1.0)
    points = np.concatenate([seen, start + share[..., None] * (end - start)], axis=1)
    valid = np.concatenate([seen[..., 2] >= NEAR, crosses], axis=1)
    z = np.where(valid, points[..., 2], 1.0)
    fx, fy, cx, cy = view.intrinsics
    u = points[..., 0] / z * fx + cx
    v = points[..., 1] / z * fy + cy
    rect = np.empty((len(half), 4))
    for low, (values, size) in ((0, (v, view.height)), (2, (u, view.width))):
        # The last 0.1 px are for rounding in float32.
        rect[:, low] = np.clip(np.ceil(np.where(valid, values, np.inf).min(axis=1) - 0.6), 0, size)
        rect[:, low + 1] = np.clip(np.floor(np.where(valid, values, -np.inf).max(axis=1) + 0.6), 0, size)
    return rect.astype(np.int32)


class _Caster:
    """One image in the making: the rays, what is needed of them again and again, and the nearest hits so far."""

    def __init__(self, solids: Solids, view: View, rays: F32) -> None:
        self.solids = solids
        self.rays = rays
        self.inverse = 1.0 / rays
        self.width = np.abs(self.inverse)
        self.eye = (view.origin - solids.centre).astype(np.float32)
        x, y, z = (solids.half[0, k] * self.width[k] - self.eye[0, k] * self.inverse[k] for k in range(3))
        nearer = np.minimum(x, y)
        self.depth: F32 = np.minimum(nearer, z)
        # Four times the number of the solid, plus the face.
        self.code = (y < x).astype(np.int16)
        self.code[z < nearer] = 2

    def keep(self, area: tuple[slice, slice], t: F32, code: npt.NDArray[np.int16] | int) -> None:
        """Take the hits of one solid that are in front of everything so far."""
        depth = self.depth[area]
        front = t < depth
        front &= t > NEAR
        np.copyto(depth, t, where=front)
        np.copyto(self.code[area], code, where=front)

    def local(self, index: int, area: tuple[slice, slice]) -> tuple[F32, F32]:
        """The camera [3] and the rays [3, h, w] in the solid's own frame."""
        cos, sin = self.solids.turn[index]
        ray, eye = self.rays[(slice(None), *area)], self.eye[index]
        if sin == 0:
            return eye, ray
        turned = np.stack([cos * ray[0] + sin * ray[1], cos * ray[1] - sin * ray[0], ray[2]])
        return np.array([cos * eye[0] + sin * eye[1], cos * eye[1] - sin * eye[0], eye[2]], np.float32), turned

    def box(self, index: int, area: tuple[slice, slice]) -> None:
        """Slab test."""
        eye, rays = self.local(index, area)
        half = self.solids.half[index]
        if self.solids.turn[index, 1]:
            rays[np.abs(rays) < 1e-7] = 1e-7
            inverse = 1.0 / rays
            near = np.abs(inverse)
        else:
            inverse, near = self.inverse[(slice(None), *area)], self.width[(slice(None), *area)]
        near = near * half[:, None, None]
        inverse = inverse * eye[:, None, None]
        # Entry at -inverse - near, exit at -inverse + near.
        far = near - inverse
        near += inverse
        enter = near.min(axis=0)
        np.negative(enter, out=enter)
        missed = enter > far.min(axis=0)
        enter[missed] = np.inf
        missed |= enter >= self.depth[area]
        if missed.all():
            return
        not_x = near[0] > -enter
        code = not_x.astype(np.int16)
        not_x &= near[1] > -enter
        code += not_x
        code += index * 4
        self.keep(area, enter, code)

    def frustum(self, index: int, area: tuple[slice, slice]) -> None:
        """Both roots of the cone within its height, and the discs at its ends."""
        eye, (x, y, z) = self.local(index, area)
        bottom, top, tall = self.solids.half[index]
        slope = (top - bottom) / (2 * tall)
        radius = (top + bottom) / 2 + slope * eye[2]
        a = x * x + y * y - slope * slope * z * z
        a = np.where(np.abs(a) < 1e-9, np.float32(1e-9), a)
        b = eye[0] * x + eye[1] * y - slope * radius * z
        root = b * b - a * (eye[0] * eye[0] + eye[1] * eye[1] - radius * radius)
        missed = root < 0
        root = np.sqrt(np.maximum(root, 0))
        best = np.full(a.shape, np.inf, np.float32)
        for t in ((-b - root) / a, (root - b) / a):
            t[missed | (np.abs(eye[2] + t * z) > tall) | (t < NEAR)] = np.inf
            best = np.minimum(best, t)
        self.keep(area, best, index * 4 + CURVED)
        for height, limit in ((-tall, bottom), (tall, top)):
            t = (height - eye[2]) / z
            t[(eye[0] + t * x) ** 2 + (eye[1] + t * y) ** 2 > limit * limit] = np.inf
            self.keep(area, t, index * 4 + 2)

    def ellipsoid(self, index: int, area: tuple[slice, slice]) -> None:
        """The nearer root."""
        eye, rays = self.local(index, area)
        half = self.solids.half[index]
        eye = eye / half
        x, y, z = rays / half[:, None, None]
        a = x * x + y * y + z * z
        b = eye[0] * x + eye[1] * y + eye[2] * z
        root = b * b - a * (eye @ eye - 1)
        missed = root < 0
        t = (-b - np.sqrt(np.maximum(root, 0))) / a
        t[missed] = np.inf
        self.keep(area, t, index * 4 + CURVED)


def cast(solids: Solids, view: View, rays: F32, least: float = 0.0) -> Hits:
    """The nearest hit of every pixel.

    Args:
        solids: the room and what is in it; the camera is inside the first and outside all others.
        view: the camera.
        rays: `view.rays()`.
        least: leave out solids whose three half sizes are all below this, metres.

    """
    caster = _Caster(solids, view, rays)
    methods = (caster.box, caster.frustum, caster.ellipsoid)
    rects = bounds(solids, view)
    rects[solids.half.max(axis=1) < least] = 0
    kinds = solids.kind.tolist()
    boxes = rects.tolist()
    # From front to back: most of what is hidden then ends at the first comparison.
    for index in np.argsort(np.square(caster.eye).sum(axis=1), kind="stable").tolist():
        top, bottom, left, right = boxes[index]
        if index and bottom > top and right > left:
            methods[kinds[index]](index, (slice(top, bottom), slice(left, right)))
    return Hits(caster.depth, caster.code >> 2, (caster.code & 3).astype(np.int8))
