"""What the parity gate compares with: images, points, and what the literal torch model says of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spd.bundle.gate import CHUNK, REFERENCE_POINTS, UNDECIDED, check_images, check_points
from spd.models import SPD
from spd.utils.exact import true_float32


@dataclass(frozen=True)
class Reference:
    """Two images, points on each, and what the literal model says of them."""

    images: NDArray[np.uint8]
    """[2, H, W, 3], those of `spd.bundle.gate.check_images`."""
    points: NDArray[np.float32]
    """[2, N, 2], (u, v) in pixels: inside, in corners, on borders, outside, twice the same."""
    depth: NDArray[np.float32]
    """[2, N], metres."""
    routes: NDArray[np.int64]
    """[2, N, R]."""
    decided: NDArray[np.bool_]
    """[2, N]: whether float32 decides the routes, see `spd.bundle.gate.UNDECIDED`."""


def make_reference(model: SPD, height: int, width: int, max_points: int, tick: Callable[[float], None]) -> Reference:
    """Run the literal model in float32; `tick` is told the share done."""
    images = check_images(height, width)
    count = min(max_points, REFERENCE_POINTS)
    points = np.stack([check_points(height, width, count, seed) for seed in range(len(images))])
    depth, routes, decided = [], [], []

    def keep_margin(_module: object, _inputs: object, outputs: tuple[Tensor, Tensor]) -> None:
        alpha_BKN = outputs[1]
        routed = model.config.routed_tokens
        if alpha_BKN.shape[-1] == routed:  # all are routed: there is nothing to decide
            decided.append(np.ones(alpha_BKN.shape[:2], dtype=bool))
            return
        weights = alpha_BKN.topk(routed + 1, dim=-1).values.numpy()
        decided.append(weights[..., -1] < weights[..., -2] * (1 - UNDECIDED))

    hook = model.b3b.register_forward_hook(keep_margin)
    try:
        with torch.inference_mode(), true_float32():
            cache = model.encode(torch.from_numpy(images).permute(0, 3, 1, 2) / 255)
            for start in range(0, count, CHUNK):
                tick(start / count)
                d, r = model.decode(cache, torch.from_numpy(points[:, start : start + CHUNK]))
                depth.append(d.numpy())
                routes.append(r.numpy())
    finally:
        hook.remove()
    return Reference(images, points, *(np.concatenate(parts, axis=1) for parts in (depth, routes, decided)))
