"""Colours the pixels of a cast scene: textures, Lambert and highlights under several lights, shadows, dark corners.

Legend: P = H * W pixels, row by row; colours are linear RGB.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from spd.data.rooms import textures
from spd.data.rooms.cast import F32, Hits, View
from spd.data.rooms.light import Shadow, floor_plan, jitter, mean5, openness
from spd.data.rooms.scene import Scene
from spd.data.rooms.surface import Surface, surface

RUN = 32768
"""Pixels shaded at a time: 128 kB per array stays in the cache, a sixth faster than all pixels at once."""


def _colour(scene: Scene, columns: dict[str, F32], plan: F32, seen: Surface, lit: F32) -> F32:
    """Linear RGB [3, run] of a run of pixels; `lit` [run] is the share of the first light."""
    colour = textures.evaluate(columns, seen.material, seen.u, seen.v, seen.blur)
    around = openness(scene, plan, seen.point)
    ambient = around * (np.float32(0.92) + np.float32(0.08) * seen.normal[2])
    light = [ambient * np.float32(share) for share in scene.ambient]
    shine = np.zeros_like(around)
    for number, lamp in enumerate(scene.lights):
        x, y, z = (np.float32(lamp.position[k]) - seen.point[k] for k in range(3))
        square = x * x + y * y + z * z
        near = 1 / np.sqrt(square + np.float32(1e-4))
        facing = (x * seen.normal[0] + y * seen.normal[1] + z * seen.normal[2]) * near
        # A lamp has a size: light wraps a little around edges. Its strength halves at 2 m.
        strength = np.maximum(facing * np.float32(0.87) + np.float32(0.13), 0) / (1 + np.float32(0.25) * square)
        if number == 0:
            strength *= lit
        peak = np.maximum((x * seen.mirror[0] + y * seen.mirror[1] + z * seen.mirror[2]) * near, 0)
        for _ in range(4):
            peak *= peak
        shine += peak * strength * np.float32(2 * lamp.colour[1])
        for k in range(3):
            light[k] += strength * np.float32(lamp.colour[k])
    shine *= columns["gloss"].take(seen.material) * around * np.float32(0.35)
    glow = columns["glow"].take(seen.material)
    for k in range(3):
        colour[k] *= light[k] * around + glow
        colour[k] += shine
    return colour


def shade(scene: Scene, view: View, rays: F32, hits: Hits) -> tuple[F32, npt.NDArray[np.intp]]:
    """Colours and materials of all pixels.

    Args:
        scene: the scene.
        view: its camera.
        rays: `view.rays()`.
        hits: what they hit.

    Returns:
        Linear RGB float32 [3, H, W], about 1 for a white surface in full light, and indices of materials [H, W].

    """
    shape = hits.depth.shape
    pixels = shape[0] * shape[1]
    runs = [slice(start, min(start + RUN, pixels)) for start in range(0, pixels, RUN)]
    seen = [surface(scene.solids, view, rays, hits, run) for run in runs]
    step = max(1, RUN // 400)
    shadow = Shadow(scene.lights[0], scene, np.concatenate([part.point[:, ::step] for part in seen], axis=1))
    lit = np.empty(pixels, np.float32)
    offsets = jitter(shape, *shadow.spread())
    for run, part in zip(runs, seen, strict=True):
        lit[run] = shadow.lit(part.point, part.normal, [(du[run], dv[run]) for du, dv in offsets])
    lit = mean5(lit.reshape(shape)).ravel()
    columns, plan = textures.table(scene.materials), floor_plan(scene)
    colour = np.empty((3, pixels), np.float32)
    for run, part in zip(runs, seen, strict=True):
        colour[:, run] = _colour(scene, columns, plan, part, lit[run])
    material = np.concatenate([part.material for part in seen])
    return colour.reshape(3, *shape), material.reshape(shape)
