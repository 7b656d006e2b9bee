"""What the parity gate compares with: what the literal torch model says of the check images, in float32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spd.bundle.gate import REFERENCE_POINTS, UNDECIDED, check_images, check_points
from spd.bundle.reference import Reference
from spd.models import SPD
from spd.utils.float32 import true_float32

CHUNK = 256
"""Points that the model answers at once: 25 MB of tokens instead of 600."""


@dataclass(frozen=True)
class LiteralReference(Reference):
    """What `gate.npz` will hold, and the routes, which only the graphs' own gate compares."""

    routes: NDArray[np.int64]
    """[B, N, R]: routed L4 positions."""


def make_reference(
    model: SPD, height: int, width: int, max_points: int, tick: Callable[[float], None]
) -> LiteralReference:
    """Run the literal model in float32; `tick` is told the share done."""
    images = check_images(height, width)
    count = min(max_points, REFERENCE_POINTS)
    points = np.stack([check_points(height, width, count, seed) for seed in range(len(images))])
    depth, undecided, routes = [], [], []

    def keep_margin(_module: object, _inputs: object, outputs: tuple[Tensor, Tensor]) -> None:
        alpha_BKN = outputs[1]
        routed = model.config.routed_tokens
        if alpha_BKN.shape[-1] == routed:  # all are routed: there is nothing to decide
            undecided.append(np.zeros(alpha_BKN.shape[:2], dtype=bool))
            return
        weights = alpha_BKN.topk(routed + 1, dim=-1).values.numpy()
        undecided.append(weights[..., -1] >= weights[..., -2] * (1 - UNDECIDED))

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
    return LiteralReference(images, points, *(np.concatenate(parts, axis=1) for parts in (depth, undecided, routes)))
