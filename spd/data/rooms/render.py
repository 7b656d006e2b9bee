"""Procedural indoor scenes with exact metric depth, for training and for pictures that need no download.

`render_room(seed)` furnishes a room (`scene`), casts one ray through the centre of each pixel (`cast`),
colours the hits (`shade`, `textures`) and develops the picture as a camera would (here). numpy only; the same
seed gives the same scene at every image size, and the same bytes at the same size.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spd.data.rooms import textures
from spd.data.rooms.cast import F32, Hits, cast
from spd.data.rooms.scene import Scene, build_scene
from spd.data.rooms.shade import shade

U8 = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Room:
    """One picture with its depth."""

    image: U8
    """uint8 [H, W, 3], RGB."""
    depth: F32
    """float32 [H, W], metres along the optical axis (not along the ray); 0 where a sensor with holes saw nothing."""
    intrinsics: tuple[float, float, float, float]
    """(fx, fy, cx, cy) in pixels; pixel (column i, row j) has its centre at (i + 0.5, j + 0.5)."""


def _uniform_noise(rng: np.random.Generator, shape: tuple[int, ...]) -> F32:
    """Noise float32 of mean 0 and deviation 1, the sum of two uniform bytes: ten times as fast as a normal one."""
    count = int(np.prod(shape))
    raw = np.frombuffer(rng.bytes(2 * count), np.uint8)
    total = raw[:count].astype(np.float32)
    total += raw[count:]
    total -= 255
    total *= 1 / 104.5
    return total.reshape(shape)


def _blurred(image: F32, side: float) -> F32:
    """Each pixel of [3, H, W] mixed with its four neighbours in turn; `side` is the weight of each, 0..0.33."""
    for axis in (1, 2):
        out = image * (1 - 2 * side)
        scaled = image * side
        if axis == 1:
            out[:, 1:] += scaled[:, :-1]
            out[:, :-1] += scaled[:, 1:]
            out[:, 0] += scaled[:, 0]
            out[:, -1] += scaled[:, -1]
        else:
            out[..., 1:] += scaled[..., :-1]
            out[..., :-1] += scaled[..., 1:]
            out[..., 0] += scaled[..., 0]
            out[..., -1] += scaled[..., -1]
        image = out
    return image


def _smooth_edges(linear: F32, hits: Hits) -> F32:
    """[3, H, W] with the steps along the outlines of solids smoothed over 3 x 3 pixels; nothing else changes."""
    height, width = hits.solid.shape
    edge = np.zeros((height, width), np.bool_)
    across = (hits.solid[:, 1:] != hits.solid[:, :-1]) | (hits.face[:, 1:] != hits.face[:, :-1])
    along = (hits.solid[1:] != hits.solid[:-1]) | (hits.face[1:] != hits.face[:-1])
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= along
    edge[:-1] |= along
    edge[[0, -1]] = False
    edge[:, [0, -1]] = False
    at = np.flatnonzero(edge)
    flat = linear.reshape(3, -1)
    total = np.zeros((3, len(at)), np.float32)
    for row, row_weight in ((-1, 0.25), (0, 0.5), (1, 0.25)):
        for column, weight in ((-1, 0.25), (0, 0.5), (1, 0.25)):
            total += np.float32(row_weight * weight) * flat.take(at + (row * width + column), axis=1)
    out = flat.copy()
    out[:, at] = total
    return out.reshape(linear.shape)


def _develop(linear: F32, rng: np.random.Generator) -> U8:
    """Linear light [3, H, W] to uint8 [H, W, 3]: exposure, white balance, vignetting, curve, blur and noise."""
    height, width = linear.shape[1:]
    some = linear[:, ::8, ::8]
    level = float(np.exp(np.log(some[1] + 0.01).mean()))
    white = rng.normal(1, 0.05, 3)
    exposure = 0.19 / level * np.exp(rng.normal(0, 0.35))
    x = (np.arange(width, dtype=np.float32) + 0.5) / width - 0.5
    y = (np.arange(height, dtype=np.float32) + 0.5) / height - 0.5
    dark = rng.uniform(0, 0.6)
    linear = linear * ((1 - dark * (x[None, :] ** 2 + y[:, None] ** 2)) * np.float32(exposure))
    linear *= white[:, None, None].astype(np.float32)
    mean = linear.mean(axis=0)
    linear -= mean
    linear *= np.float32(rng.uniform(0.3, 0.95))
    linear += mean
    # Blurring light rather than grey levels keeps bright edges bright, as a lens does.
    linear = _blurred(linear, rng.uniform(0.05, 0.14))
    for _ in range(int(rng.integers(0, 3)) if rng.random() < 0.25 else 0):
        linear = _blurred(linear, 0.25)
    grey = np.sqrt(np.maximum(linear, 0))
    contrast = rng.uniform(0.2, 1.2)
    np.minimum(grey, 1, out=grey)
    grey += contrast * (grey * grey * (3 - 2 * grey) - grey)
    strength = rng.uniform(0.002, 0.02)
    grey += np.float32(strength) * _uniform_noise(rng, grey.shape)
    grey += np.float32(0.5 * strength) * _uniform_noise(rng, (1, height, width))
    grey *= 255
    grey += 0.5
    np.clip(grey, 0, 255, out=grey)
    return np.ascontiguousarray(grey.astype(np.uint8).transpose(1, 2, 0))


def sense(depth: F32, light: F32, bad: npt.NDArray[np.bool_], focal: float, rng: np.random.Generator) -> F32:
    """What a structured-light sensor would measure.

    Noise of deviation 0.0015 z^2 metres, at most 3 deviations; and 0 where (a) the projector, 7.5 cm to the right of
    the camera, does not shine because something nearer is in the way, which is on the left of near things, (b) the
    surface is `bad`, or is dark and falls into patches of noise, (c) the depth is outside 0.5..9 m.

    Args:
        depth: float32 [H, W] metres along the optical axis.
        light: float32 [H, W] brightness; below 0.02 is dark.
        bad: bool [H, W] surfaces that are never measured.
        focal: pixels.
        rng: for noise and patches.

    Returns:
        float32 [H, W] metres, or 0.

    """
    height, width = depth.shape
    columns = np.arange(width, dtype=np.float32)
    # The projector sees a point this much further left, the more the nearer the point is.
    projected = (columns - 0.075 * focal / depth)[:, ::-1]
    shadow = (projected > np.minimum.accumulate(projected, axis=1) + 0.5)[:, ::-1]
    x, y = np.broadcast_arrays(columns[None, :] / 25, np.arange(height, dtype=np.float32)[:, None] / 25)
    start = rng.uniform(0, 32, 2).astype(np.float32)
    patchy = textures.noise(x.ravel() + start[0], y.ravel() + start[1]).reshape(height, width)
    patchy += 0.4 * _uniform_noise(rng, (height, width))
    hidden = shadow | bad | ((light < 0.02) & (patchy < 0)) | (depth < 0.5) | (depth > 9)
    noise = np.clip(rng.standard_normal((height, width), np.float32), -3, 3)
    sensed: F32 = depth + noise * (np.float32(0.0015) * depth * depth)
    sensed[hidden] = 0
    return sensed


def render_scene(scene: Scene, seed: int, height: int, width: int, *, holes: bool = False) -> Room:
    """`render_room` of a scene that is at hand."""
    view = scene.view(height, width)
    rays = view.rays()
    hits = cast(scene.solids, view, rays)
    linear, material = shade(scene, view, rays, hits)
    rng = np.random.default_rng([seed, 2])
    image = _develop(_smooth_edges(linear, hits), rng)
    depth = hits.depth
    if holes:
        glow = np.array([m.glow > 0.9 for m in scene.materials])
        depth = sense(depth, linear.max(axis=0), glow[material], view.intrinsics[0], rng)
    return Room(image, depth, view.intrinsics)


def render_room(seed: int, height: int = 256, width: int = 320, *, holes: bool = False) -> Room:
    """A furnished room.

    Args:
        seed: not negative; chooses room, furniture, camera and light.
        height: of the image in pixels.
        width: of the image in pixels.
        holes: degrade the depth as a structured-light sensor does: zeros (no measurement) beside depth edges, on dark
            and luminous surfaces and outside 0.5..9 m, elsewhere noise of deviation 0.0015 z^2 metres. The image is the
            same.

    Raises:
        ValueError: a size below 8 pixels or a negative seed.

    """
    if height < 8 or width < 8:
        raise ValueError(f"a room of {width} x {height} pixels (width x height) is too small; the least is 8 x 8")
    if seed < 0:
        raise ValueError(f"the seed of a room is {seed}; it must be 0 or more")
    return render_scene(build_scene(seed), seed, height, width, holes=holes)


def rooms(
    first_seed: int, count: int | None = None, height: int = 256, width: int = 320, *, holes: bool = False
) -> Iterator[Room]:
    """Rooms of the seeds `first_seed`, `first_seed + 1`, ...; without end if `count` is None. See `render_room`."""
    seeds = itertools.count(first_seed) if count is None else range(first_seed, first_seed + count)
    for seed in seeds:
        yield render_room(seed, height, width, holes=holes)
