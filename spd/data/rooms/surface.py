"""What is known of the points that a picture shows: place, normal, texture coordinates.

Legend: P pixels of the picture, row by row; Q of them on curved surfaces.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spd.data.rooms.cast import CURVED, F32, FRUSTUM, Hits, Solids, View


@dataclass(frozen=True)
class Surface:
    """What is known of the point that each pixel sees."""

    point: F32
    """[3, P] metres."""
    normal: F32
    """[3, P] unit vectors towards the camera's side."""
    mirror: F32
    """[3, P] unit vectors along which a mirror would send the ray on."""
    u: F32
    v: F32
    """[P] metres along the surface."""
    blur: F32
    """[P] metres of the surface that the pixel covers."""
    material: npt.NDArray[np.intp]
    """[P] index."""


def _curved(solids: Solids, which: npt.NDArray[np.intp], local: F32) -> tuple[F32, F32]:
    """Normals [3, Q] in the solids' frames and texture u [Q] of Q points on curved surfaces."""
    half = solids.half[which].T
    frusta = solids.kind[which] == FRUSTUM
    slope = np.where(frusta, (half[1] - half[0]) / (2 * half[2]), 0)
    reach = np.hypot(local[0], local[1])
    normal: F32 = np.where(frusta, local, local / (half * half))
    normal[2] = np.where(frusta, -slope * reach, normal[2])
    normal /= np.sqrt((normal * normal).sum(axis=0)) + np.float32(1e-9)
    u: F32 = np.arctan2(local[1], local[0]) * np.maximum(half[0], half[1])
    return normal, u.astype(np.float32)


def surface(solids: Solids, view: View, rays: F32, hits: Hits, pixels: slice) -> Surface:
    """Points, normals and texture coordinates of a run of pixels, counted row by row."""
    depth, face = hits.depth.ravel()[pixels], hits.face.ravel()[pixels]
    which = hits.solid.ravel()[pixels].astype(np.intp)
    directions = rays.reshape(3, -1)[:, pixels]
    point = directions * depth
    point += view.origin[:, None]
    cos, sin = solids.turn[:, 0].take(which), solids.turn[:, 1].take(which)
    x, y, z = (point[k] - solids.centre[:, k].take(which) for k in range(3))
    x, y = cos * x + sin * y, cos * y - sin * x
    on_x, on_y, on_z = face == 0, face == 1, face == 2
    across = np.where(on_x, x, np.where(on_y, y, z))
    positive = across > 0
    sign = np.where(positive != (which == 0), np.float32(1), np.float32(-1))  # the room is seen from inside
    flat_x, flat_y, normal_z = sign * on_x, sign * on_y, sign * on_z
    u, v = np.where(on_x, y, x), np.where(on_z, y, z)
    side = 2 * np.minimum(face, 2) + positive
    round_ = np.flatnonzero(face == CURVED)
    if round_.size:
        solid = which[round_]
        normal, u[round_] = _curved(solids, solid, np.stack([x[round_], y[round_], z[round_]]))
        flat_x[round_], flat_y[round_], normal_z[round_] = normal
        side[round_] = 0
    normals = np.stack([cos * flat_x - sin * flat_y, cos * flat_y + sin * flat_x, normal_z])
    unit = directions / np.sqrt(np.square(directions).sum(axis=0))
    cosine = (normals * unit).sum(axis=0)
    mirror = unit - normals * (2 * cosine)
    facing = np.maximum(np.abs(cosine), np.float32(0.05))
    side = which * 6 + side
    swap = solids.lengthwise.ravel().take(side)
    u, v = np.where(swap, v, u), np.where(swap, u, v)
    material = solids.material.ravel().take(side).astype(np.intp)
    blur = depth / (np.float32(view.intrinsics[0]) * facing)
    return Surface(point, normals, mirror, u, v, blur, material)
