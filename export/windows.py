"""Reading maps at points by integer gathers, in place of GridSample (rewrites 5 and 7 of design 4)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Windows(nn.Module):
    """Bilinear samples on a side x side grid around each position of one ringed map.

    All samples of a window share one fraction, so (side + 1)^2 rows are gathered once and blended by one small matrix
    product; its [side^2, (side + 1)^2] matrix is a sum of four 0/1 patterns weighted by the bilinear weights.
    """

    def __init__(self, side: int, height: int, width: int, dtype: torch.dtype, wide: torch.dtype) -> None:
        super().__init__()
        self.side, self.height, self.width = side, height, width
        self.dtype = dtype
        reach = torch.arange(side + 1, dtype=wide) - side // 2
        self.reach = nn.Parameter(reach, requires_grad=False)
        self.patterns = nn.Parameter(blend_patterns(side).to(dtype), requires_grad=False)

    def forward(self, map_BRC: Tensor, cells_BKP2: Tensor) -> Tensor:
        """Sample around positions (x, y) in cells: map [B, (H + 2) * (W + 2), C], positions [B, K, P, 2].

        Returns:
            [B, K, P, side^2, C] in the dtype of the map. Samples outside the map blend towards zero.
        """
        first = cells_BKP2 - 0.5
        corner = first.floor()
        fraction = first - corner
        x, y = ((corner[..., axis, None] + self.reach) for axis in (0, 1))
        # Clamp in float, then cast: the TensorRT parser's table lists no integers for Clip. Clamped cells are the
        # ring's zeros, which is padding_mode="zeros" exactly.
        column = x.clamp(-1, self.width).long() + 1
        row = y.clamp(-1, self.height).long() + 1
        index = (row[..., :, None] * (self.width + 2) + column[..., None, :]).flatten(-2)
        rows = gather_rows(map_BRC, index)

        fx, fy = fraction[..., :1], fraction[..., 1:]
        weights = torch.cat([(1 - fy) * (1 - fx), (1 - fy) * fx, fy * (1 - fx), fy * fx], dim=-1).to(self.dtype)
        if self.side == 1:
            return weights[..., None, :] @ rows
        matrix = (weights @ self.patterns).unflatten(-1, (self.side**2, (self.side + 1) ** 2))
        return matrix @ rows


def blend_patterns(side: int) -> Tensor:
    """Which rows of a window its samples have as neighbours: 0/1, [4, side^2 * (side + 1)^2].

    The first axis is the upper left, upper right, lower left and lower right neighbour.
    """
    patterns = torch.zeros(4, side, side, side + 1, side + 1)
    for corner in range(4):
        dy, dx = divmod(corner, 2)
        for y in range(side):
            for x in range(side):
                patterns[corner, y, x, y + dy, x + dx] = 1
    return patterns.flatten(1)


def gather_rows(table_BRC: Tensor, index: Tensor) -> Tensor:
    """Rows of each image's own table: [B, R, C] and int64 [B, ...] to [B, ..., C]."""
    batch, rows = table_BRC.shape[:2]
    start = torch.arange(batch, device=index.device).view(-1, *([1] * (index.ndim - 1))) * rows
    return F.embedding(index + start, table_BRC.flatten(0, 1))
