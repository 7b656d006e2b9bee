"""The training loss (paper 7.2)."""

from __future__ import annotations

import torch
from torch import Tensor

LAMBDA_VAR = 0.5
"""lambda_var: 1 would ignore the scale of an image, 0 is the root mean square of the log error (paper 7.2)."""

# The root's slope is infinite at 0, where a prediction is exact.
_SMALLEST = 1e-8


def silog(depth_BK: Tensor, target_BK: Tensor, lambda_var: float = LAMBDA_VAR) -> Tensor:
    """L_silog (paper 7.2), taken over the K queries of each image and averaged over the images.

    Averaging per image makes the gradient of a batch the mean of its images' gradients, so that it does not depend on
    how many processes share the batch.

    Args:
        depth_BK: predicted metres [B, K], positive; any floating dtype, computed in float32.
        target_BK: true metres [B, K], positive.
        lambda_var: weight of the squared mean.

    Returns:
        A scalar float32.
    """
    delta_BK = depth_BK.float().log() - target_BK.float().log()
    variance_B = delta_BK.square().mean(dim=1) - lambda_var * delta_BK.mean(dim=1).square()
    return torch.sqrt(variance_B.clamp(min=_SMALLEST)).mean()
