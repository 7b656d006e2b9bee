"""Rooms: depth against a slow caster in float64 that shares no code, and whether pictures are fit to learn from."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest

from spd.data.rooms import Room, render_room, rooms, sense
from spd.data.rooms.cast import BOX, CURVED, ELLIPSOID, FRUSTUM, Solids, View, bounds, cast
from spd.data.rooms.scene import Scene, build_scene

F64 = npt.NDArray[np.float64]


def directions(view: View, shift: tuple[float, float] = (0.0, 0.0)) -> F64:
    """[H * W, 3] rays through pixel centres moved by `shift` pixels (right, down)."""
    fx, fy, cx, cy = view.intrinsics
    u, v = np.meshgrid(np.arange(view.width) + 0.5 + shift[0], np.arange(view.height) + 0.5 + shift[1])
    camera = np.stack([(u - cx) / fx, (v - cy) / fy, np.ones_like(u)], axis=-1).reshape(-1, 3)
    return camera @ view.axes.astype(np.float64)


def hit_box(eye: F64, rays: F64, half: F64, inside: bool) -> F64:
    """Every one of the six planes in turn: is the point on the side?"""
    best = np.full(len(rays), np.inf)
    for axis in range(3):
        for side in (-1, 1):
            with np.errstate(divide="ignore", invalid="ignore"):
                t = (side * half[axis] - eye[axis]) / rays[:, axis]
                point = eye + t[:, None] * rays
            on = np.ones(len(rays), bool)
            for other in {0, 1, 2} - {axis}:
                on &= np.abs(point[:, other]) <= half[other] * (1 + 1e-12) + (1e-9 if inside else 0)
            best = np.where(on & (t > 0), np.minimum(best, t), best)
    return best


def hit_frustum(eye: F64, rays: F64, half: F64) -> F64:
    bottom, top, tall = half
    slope = (top - bottom) / (2 * tall)
    middle = (top + bottom) / 2
    # |(x, y)|^2 = (middle + slope z)^2 as a polynomial in t.
    r0, r1 = middle + slope * eye[2], slope * rays[:, 2]
    a = rays[:, 0] ** 2 + rays[:, 1] ** 2 - r1**2
    b = 2 * (eye[0] * rays[:, 0] + eye[1] * rays[:, 1] - r0 * r1)
    c = eye[0] ** 2 + eye[1] ** 2 - r0**2
    with np.errstate(divide="ignore", invalid="ignore"):
        root = np.sqrt(b * b - 4 * a * c)
        found = [(-b - root) / (2 * a), (-b + root) / (2 * a)]
        found = [np.where(np.abs(eye[2] + t * rays[:, 2]) <= tall, t, np.inf) for t in found]
        for z, radius in ((-tall, bottom), (tall, top)):
            t = (z - eye[2]) / rays[:, 2]
            x, y = eye[0] + t * rays[:, 0], eye[1] + t * rays[:, 1]
            found.append(np.where(np.hypot(x, y) <= radius, t, np.inf))
    stacked = np.stack(found)
    nearest: F64 = np.where(np.isfinite(stacked) & (stacked > 0), stacked, np.inf).min(axis=0)
    return nearest


def hit_ellipsoid(eye: F64, rays: F64, half: F64) -> F64:
    o, d = eye / half, rays / half
    a: F64 = (d * d).sum(1)
    b, c = 2 * (d @ o), float(o @ o) - 1
    with np.errstate(invalid="ignore"):
        t = (-b - np.sqrt(b * b - 4 * a * c)) / (2 * a)
    hit: F64 = np.where(t > 0, t, np.inf)
    return hit


def slow_depth(solids: Solids, view: View, rays: F64) -> F64:
    """[H * W] metres: every solid for every pixel."""
    best = np.full(len(rays), np.inf)
    for k, kind in enumerate(solids.kind):
        cos, sin = solids.turn[k].astype(np.float64)
        to_local = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
        eye = to_local @ (view.origin.astype(np.float64) - solids.centre[k])
        turned, half = rays @ to_local.T, solids.half[k].astype(np.float64)
        if kind == BOX:
            t = hit_box(eye, turned, half, inside=k == 0)
        else:
            t = {FRUSTUM: hit_frustum, ELLIPSOID: hit_ellipsoid}[int(kind)](eye, turned, half)
        best = np.minimum(best, t)
    return best


@pytest.mark.parametrize("size", [(48, 64), (37, 53), (90, 120)])
@pytest.mark.parametrize("seed", [0, 1, 2, 7, 25, 36, 43, 61, 63, 64])
def test_depth_agrees_with_a_slow_caster_on_every_pixel(seed: int, size: tuple[int, int]) -> None:
    scene = build_scene(seed)
    view = scene.view(*size)
    depth = render_room(seed, *size).depth.ravel()
    slow = slow_depth(scene.solids, view, directions(view))
    wrong = np.flatnonzero(np.abs(depth - slow) > 1e-3 * slow)
    # Where an outline passes through the centre of a pixel, rounding decides which side is seen: the depth must then be
    # that of a ray a five-hundredth of a pixel away.
    assert len(wrong) <= 1e-3 * depth.size + 1
    right = np.zeros(len(wrong), bool)
    for right_by, down_by in itertools.product((-0.002, 0.0, 0.002), repeat=2):
        near = slow_depth(scene.solids, view, directions(view, (right_by, down_by))[wrong])
        right |= np.abs(depth[wrong] - near) <= 1e-3 * near
    assert right.all()


@pytest.mark.parametrize("seed", range(12))
def test_points_lie_on_the_solids_they_are_said_to_be_of(seed: int) -> None:
    scene = build_scene(seed)
    view = scene.view(96, 128)
    hits = cast(scene.solids, view, view.rays())
    points = view.origin + directions(view) * hits.depth.reshape(-1, 1)
    assert (points > -1e-4).all()
    assert (points < np.array(scene.size) + 1e-4).all()
    which, face = hits.solid.ravel(), hits.face.ravel()
    solids = scene.solids
    local = points - solids.centre[which]
    cos, sin = solids.turn[which].T
    local[:, 0], local[:, 1] = cos * local[:, 0] + sin * local[:, 1], cos * local[:, 1] - sin * local[:, 0]
    half, kind = solids.half[which].astype(np.float64), solids.kind[which]
    planes = np.flatnonzero(face != CURVED)
    np.testing.assert_allclose(np.abs(local[planes, face[planes]]), half[planes, face[planes]], atol=1e-4)
    round_ = (face == CURVED) & (kind == ELLIPSOID)
    np.testing.assert_allclose(np.linalg.norm(local[round_] / half[round_], axis=1), 1, atol=5e-3)
    cones = (face == CURVED) & (kind == FRUSTUM)
    share = (local[cones, 2] / half[cones, 2] + 1) / 2
    radius = half[cones, 0] + share * (half[cones, 1] - half[cones, 0])
    np.testing.assert_allclose(np.hypot(local[cones, 0], local[cones, 1]), radius, atol=2e-4)


def test_depth_of_a_wall_seen_straight_on_is_its_distance_everywhere() -> None:
    half = np.array([[2.0, 3.0, 1.25]], np.float32)
    solids = Solids(
        kind=np.zeros(1, np.int8),
        centre=half.copy(),
        half=half,
        turn=np.array([[1.0, 0.0]], np.float32),
        material=np.zeros((1, 6), np.int16),
        lengthwise=np.zeros((1, 6), bool),
    )
    axes = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]], np.float32)
    view = View(np.array([1.5, 1.0, 1.25], np.float32), axes, (200.0, 200.0, 32.0, 24.0), 48, 64)
    hits = cast(solids, view, view.rays())
    np.testing.assert_allclose(hits.depth, 5.0, rtol=1e-6)  # along the axis; along the ray the corners are farther
    assert (hits.face == 1).all()


def test_nothing_is_seen_outside_its_rectangle() -> None:
    scene = build_scene(5)
    view = scene.view(60, 80)
    hits = cast(scene.solids, view, view.rays())
    for index, (top, bottom, left, right) in enumerate(bounds(scene.solids, view)):
        rows, columns = np.nonzero(hits.solid == index)
        if index and rows.size:
            assert top <= rows.min() <= rows.max() < bottom
            assert left <= columns.min() <= columns.max() < right


def test_shapes_types_and_intrinsics() -> None:
    room = render_room(3, 72, 104)
    assert room.image.shape == (72, 104, 3)
    assert room.image.dtype == np.uint8
    assert room.depth.shape == (72, 104)
    assert room.depth.dtype == np.float32
    fx, fy, cx, cy = room.intrinsics
    assert fx == fy
    assert (cx, cy) == (52.0, 36.0)
    assert 45 <= np.degrees(2 * np.arctan(52 / fx)) <= 75
    assert render_room(3).image.shape == (256, 320, 3)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_room() -> None:
    first, again, other = render_room(11, 64, 80), render_room(11, 64, 80), render_room(12, 64, 80)
    assert first.image.tobytes() == again.image.tobytes()
    assert first.depth.tobytes() == again.depth.tobytes()
    assert first.depth.tobytes() != other.depth.tobytes()


@pytest.mark.parametrize("seed", [4, 20, 33])
def test_a_seed_shows_the_same_scene_at_every_size(seed: int) -> None:
    small, large = render_room(seed, 60, 80), render_room(seed, 120, 160)
    means = large.depth.reshape(60, 2, 80, 2).mean(axis=(1, 3))
    assert np.median(np.abs(means / small.depth - 1)) < 0.005
    colours = large.image.reshape(60, 2, 80, 2, 3).mean(axis=(1, 3))
    assert np.median(np.abs(colours - small.image)) < 16


@pytest.fixture(scope="module")
def hundred() -> list[Room]:
    return list(rooms(200, 100, 60, 80))


def test_depths_are_those_of_indoor_photos(hundred: list[Room]) -> None:
    depth = np.stack([room.depth for room in hundred])
    assert depth.min() >= 0.3
    assert depth.max() <= 12
    assert np.mean((depth >= 0.5) & (depth <= 10)) > 0.995
    medians = np.median(depth, axis=(1, 2))
    assert 2.2 < np.median(medians) < 3.5
    assert np.quantile(medians, 0.9) / np.quantile(medians, 0.1) > 1.7  # scale is not a constant
    spread = np.quantile(depth, 0.95, axis=(1, 2)) / np.quantile(depth, 0.05, axis=(1, 2))
    assert np.median(spread) > 2.2
    rows = np.median(depth / medians[:, None, None], axis=(0, 2))
    assert rows[-1] < 0.85  # the floor comes nearer downwards
    assert rows[20] > 1.0


def test_pictures_are_neither_dark_nor_pale_nor_flat(hundred: list[Room]) -> None:
    for number, room in enumerate(hundred):
        grey = room.image @ np.array([0.299, 0.587, 0.114])
        assert 30 < grey.mean() < 215, number
        assert grey.std() > 12, number
        assert np.mean(grey > 250) < 0.5, number
        assert np.mean(grey < 5) < 0.4, number


def test_cameras_and_lights_are_in_the_open() -> None:
    for seed in range(60):
        scene: Scene = build_scene(seed)
        solids = scene.solids
        for place in (scene.origin, np.array(scene.lights[0].position)):
            assert (place > 0).all()
            assert (place < scene.size).all()
        reach = solids.half[1:].copy()
        cones = solids.kind[1:] == FRUSTUM
        reach[cones, :2] = reach[cones, :2].max(axis=1, keepdims=True)
        offset = scene.origin - solids.centre[1:]
        cos, sin = solids.turn[1:].T
        local = np.stack(
            [cos * offset[:, 0] + sin * offset[:, 1], cos * offset[:, 1] - sin * offset[:, 0], offset[:, 2]], axis=1
        )
        gap = np.linalg.norm(np.maximum(np.abs(local) - reach, 0), axis=1)
        assert gap.min() > 0.25
        assert 0.8 <= scene.origin[2] <= 1.9


def test_holes_are_zeros_and_the_rest_is_noise_that_grows_with_depth() -> None:
    share = []
    errors = []
    for seed in range(20):
        clean, holed = render_room(seed, 96, 128), render_room(seed, 96, 128, holes=True)
        assert holed.image.tobytes() == clean.image.tobytes()
        assert holed.depth.dtype == np.float32
        seen = holed.depth > 0
        share.append(1 - seen.mean())
        error = (holed.depth - clean.depth)[seen] / clean.depth[seen] ** 2
        assert np.abs(error).max() <= 3.01 * 0.0015
        assert ((clean.depth[seen] >= 0.5) & (clean.depth[seen] <= 9)).all()
        assert (holed.depth[~seen] == 0).all()
        errors.append(error.std())
    assert 0.02 < np.mean(share) < 0.5
    assert np.median(errors) == pytest.approx(0.0015, rel=0.05)


def test_shadows_of_the_projector_are_on_the_left_of_near_things() -> None:
    depth = np.full((16, 120), 4.0, np.float32)
    depth[:, 50:70] = 1.0
    light, bad = np.ones_like(depth), np.zeros(depth.shape, bool)
    seen = sense(depth, light, bad, 200.0, np.random.default_rng(0)) > 0
    # 7.5 cm * 200 px * (1 / 1 m - 1 / 4 m) = 11 px
    assert not seen[:, 40:50].any()
    assert seen[:, :38].all()
    assert seen[:, 50:].all()


def test_dark_and_luminous_and_distant_surfaces_have_holes() -> None:
    depth = np.full((128, 256), 2.0, np.float32)
    light, bad = np.ones_like(depth), np.zeros(depth.shape, bool)
    light[:, 32:] = 0.0
    bad[:8] = True
    depth[-8:] = 9.5
    depth[-16:-8] = 0.4
    seen = sense(depth, light, bad, 100.0, np.random.default_rng(0)) > 0
    assert not seen[:8].any()
    assert not seen[-16:].any()
    assert seen[8:-16, :32].all()
    assert 0.2 < seen[8:-16, 32:].mean() < 0.8


def test_rooms_follow_one_another() -> None:
    some = list(rooms(40, 3, 16, 24, holes=True))
    assert len(some) == 3
    assert some[2].image.tobytes() == render_room(42, 16, 24, holes=True).image.tobytes()
    endless = rooms(41, None, 16, 24)
    assert next(endless).depth.tobytes() == render_room(41, 16, 24).depth.tobytes()
    assert next(endless).depth.tobytes() == render_room(42, 16, 24).depth.tobytes()


@pytest.mark.parametrize(("seed", "size"), [(-1, (64, 80)), (0, (7, 80)), (0, (64, 0))])
def test_refusals_say_what_they_got(seed: int, size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"-1|80 x 7|0 x 64"):
        render_room(seed, *size)
