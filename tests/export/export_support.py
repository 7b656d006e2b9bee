"""What several tests of export/ share: the literal model in float64, and a float64 relative error."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from export.layers import Precision
from spd.config import PRESETS
from spd.models import SPD, seeded

HEIGHT, WIDTH = 160, 192  # 30 L4 cells, so that choosing 20 of them is a choice
ATTO = PRESETS["atto"]
EXACT = Precision.of(torch.float64)


@cache
def literal() -> SPD:
    """Untrained atto in float32, the one in the `exported` bundle; do not write to it."""
    return seeded(ATTO).requires_grad_(False)


@cache
def literal64() -> SPD:
    """The same in float64; do not write to it."""
    return seeded(ATTO).double().requires_grad_(False)


def relative(got: Tensor, want: Tensor) -> float:
    """Largest difference over the largest magnitude."""
    assert got.shape == want.shape
    assert want.numel()
    return float((got.double() - want.double()).abs().max() / want.double().abs().max())


def random64(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    """Normal numbers, float64, the same for the same seed."""
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
