"""What stays float32 while torch's autocast computes the rest in bfloat16: coordinates, routing scores, log depth."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """A bfloat16 or float16 tensor as float32; float32 and float64 stay what they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def in_float32(operation: Callable[..., Tensor], *operands: Tensor) -> Tensor:
    """The operation on operands of at least float32, without autocast, which would round them to bfloat16 again."""
    operands = tuple(at_least_float32(operand) for operand in operands)
    device = operands[0].device.type
    if not torch.is_autocast_enabled(device):
        return operation(*operands)
    with torch.autocast(device, enabled=False):
        return operation(*operands)
