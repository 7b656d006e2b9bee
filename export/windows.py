"""Reading maps at points by integer gathers, in place of GridSample (rewrites 5 and 7 of design 4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.layers import Precision


class Places(nn.Module):
    """Where windows lie in ringed maps: the rows to gather around each position, and the weights to blend them with.

    Every position of a window shares one fraction, so all its samples have the same four weights. The windows of all
    maps are found together, as each operator costs the decoder more than the few numbers in it.
    """

    def __init__(self, side: int, sizes: Sequence[tuple[int, int]], dtype: torch.dtype, wide: torch.dtype) -> None:
        """Windows of side x side samples; maps of (height, width) cells, for one position each, or one map for all."""
        super().__init__()
        self.dtype = dtype
        reach = torch.arange(side + 1, dtype=wide) - side // 2
        self.reach = nn.Parameter(reach, requires_grad=False)
        last = torch.tensor([(width, height) for height, width in sizes], dtype=wide)
        self.last = nn.Parameter(last[..., None], requires_grad=False)
        self.row_length = nn.Parameter(torch.tensor([[[width + 2]] for _, width in sizes]), requires_grad=False)
        rows = torch.tensor([[[(height + 2) * (width + 2)]] for height, width in sizes])
        self.rows = nn.Parameter(rows, requires_grad=False)

    def forward(self, cells_BKP2: Tensor) -> tuple[Tensor, Tensor]:
        """Positions (x, y) in cells of their map, [B, K, P, 2].

        Returns:
            Rows of the maps of all images one after the other, int64 [B, K, P, side + 1, side + 1], and the weights of
            the upper left, upper right, lower left and lower right neighbour, [B, K, P, 4].
        """
        first = cells_BKP2 - 0.5
        corner = first.floor()
        fx, fy = (first - corner).split(1, dim=-1)
        weights_BKP4 = torch.cat([(1 - fy) * (1 - fx), (1 - fy) * fx, fy * (1 - fx), fy * fx], dim=-1)

        # Clamp in float, then cast, as a position far away has no integer. Clamped cells are the ring's zeros, which is
        # padding_mode="zeros" exactly.
        reached = torch.minimum((corner[..., None] + self.reach).clamp(min=-1), self.last).long() + 1
        column, row = reached.unbind(dim=-2)
        image = torch.arange(cells_BKP2.shape[0], device=row.device)[:, None, None, None, None]
        index = row[..., :, None] * self.row_length + column[..., None, :] + image * self.rows
        return index, weights_BKP4.to(self.dtype)


class Blend(nn.Module):
    """Bilinear samples of a window, from the rows that `Places` found.

    On a CPU each row is read once and the samples are one small matrix product: its [side^2, (side + 1)^2] matrix is a
    sum of four 0/1 patterns weighted by the bilinear weights. On a GPU the four neighbours of every sample are read,
    weighted and added in one kernel, and the rows are never written: 13 kernels and 38 MB less for 256 points of
    `tiny`. A single sample is a sum over the axis of its neighbours, read at once: 8 MB less. Over the axes of a larger
    window that would be one kernel more.
    """

    def __init__(self, side: int, precision: Precision) -> None:
        super().__init__()
        self.side, self.for_gpu = side, precision.for_gpu
        if not self.for_gpu:
            self.patterns = nn.Parameter(blend_patterns(side).to(precision.graph), requires_grad=False)

    def forward(self, map_BRC: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        """Map [B, R, C], rows of a window of this side or larger [..., S, S], weights [..., 4] to [..., side^2, C]."""
        index, side = middle(index, self.side), self.side
        if side > 1 and self.for_gpu:
            upper_left, upper_right, lower_left, lower_right = (
                rows_at(map_BRC, index[..., dy : dy + side, dx : dx + side]) * weights[..., 2 * dy + dx, None, None]
                for dy in (0, 1)
                for dx in (0, 1)
            )
            return upper_left + upper_right + lower_left + lower_right
        rows = rows_at(map_BRC, index)
        if side > 1:
            return (weights @ self.patterns).unflatten(-1, (side**2, (side + 1) ** 2)) @ rows
        if self.for_gpu:
            return (weights[..., None] * rows).sum(dim=-2, keepdim=True)
        return weights[..., None, :] @ rows


class Windows(nn.Module):
    """Bilinear samples on a side x side grid around each position of one ringed map."""

    def __init__(self, side: int, height: int, width: int, precision: Precision) -> None:
        super().__init__()
        self.places = Places(side, [(height, width)], precision.graph, precision.wide)
        self.blend = Blend(side, precision)

    def forward(self, map_BRC: Tensor, cells_BKP2: Tensor) -> Tensor:
        """Sample around positions (x, y) in cells: map [B, (H + 2) * (W + 2), C], positions [B, K, P, 2].

        Returns:
            [B, K, P, side^2, C] in the dtype of the map. Samples outside the map blend towards zero.
        """
        return self.blend(map_BRC, *self.places(cells_BKP2))


def rows_at(map_BRC: Tensor, index: Tensor) -> Tensor:
    """Rows of a map [B, R, C] by what `Places` found, int64 [..., S, S], to [..., S^2, C]."""
    return F.embedding(index.flatten(-2), map_BRC.flatten(0, 1))


def middle(index: Tensor, side: int) -> Tensor:
    """The rows of a smaller window at the same place: int64 [..., S, S] to [..., side + 1, side + 1]."""
    skip = (index.shape[-1] - side - 1) // 2
    return index[..., skip : skip + side + 1, skip : skip + side + 1]


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
