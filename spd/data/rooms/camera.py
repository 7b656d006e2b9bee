"""Where the camera of a scene stands and where it looks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from spd.data.rooms.cast import F32

CLEAR = 0.6
"""Metres around the camera without furniture or walls."""


@dataclass(frozen=True)
class Pose:
    """The camera: place in metres, angles in radians."""

    place: tuple[float, float, float]
    yaw: float
    pitch: float
    """Downwards."""
    roll: float
    fov: float
    """Along the longer side of the picture."""

    def axes(self) -> F32:
        """Rows right, down, forward."""
        cy, sy, cp, sp = math.cos(self.yaw), math.sin(self.yaw), math.cos(self.pitch), math.sin(self.pitch)
        forward = np.array([cy * cp, sy * cp, -sp])
        right = np.array([sy, -cy, 0.0])
        down = np.cross(forward, right)
        cr, sr = math.cos(self.roll), math.sin(self.roll)
        return np.stack([cr * right + sr * down, cr * down - sr * right, forward]).astype(np.float32)


def far_wall(place: tuple[float, float, float], yaw: float, size: tuple[float, float, float]) -> float:
    """Metres from the camera to the wall in a direction."""
    x = (size[0] - place[0] if math.cos(yaw) > 0 else -place[0]) / (math.cos(yaw) or 1e-9)
    y = (size[1] - place[1] if math.sin(yaw) > 0 else -place[1]) / (math.sin(yaw) or 1e-9)
    return min(x, y)


def choose_pose(rng: np.random.Generator, size: tuple[float, float, float], close: bool) -> Pose:
    """A camera near the edge of the room that looks across it; of eight tries the one whose far wall suits best."""
    wanted = max(2.0, math.exp(rng.normal(math.log(3.0 if close else 5.8), 0.45)))
    best: tuple[float, Pose] | None = None
    for _ in range(8):
        place = (
            rng.uniform(CLEAR, size[0] - CLEAR),
            rng.uniform(CLEAR, size[1] - CLEAR),
            float(np.clip(rng.normal(1.35, 0.22), 0.8, 1.9)),
        )
        yaw = rng.uniform(-math.pi, math.pi)
        if rng.random() < 0.75:  # towards the middle
            yaw = math.atan2(size[1] / 2 - place[1], size[0] / 2 - place[0]) + rng.normal(0, 0.35)
        miss = abs(math.log(far_wall(place, yaw, size) / wanted))
        pitch = rng.normal(0.45, 0.13) if close else rng.normal(0.16, 0.13)
        fov = math.radians(float(np.clip(rng.normal(61, 6), 45, 75)))
        pose = Pose(place, yaw, float(np.clip(pitch, -0.12, 0.7)), rng.normal(0, 0.02), fov)
        if best is None or miss < best[0]:
            best = (miss, pose)
    assert best is not None
    return best[1]
