"""B1: the query seed h0 and the local tokens T_unified (paper 6.1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spd.config import OFFSET_FREQUENCIES, PE_FREQUENCIES, STRIDES, WINDOW_SIDES, SPDConfig
from spd.models.precision import in_float32
from spd.models.precompute import Cache
from spd.models.sampling import bilinear, offset_encoding, positional_encoding, window_offsets


class QueryEncoder(nn.Module):
    """B1: pure feature gathering, no attention."""

    def __init__(self, config: SPDConfig) -> None:
        super().__init__()
        l1, l2, _, l4 = config.neck_channels
        d = config.d
        self.r_max = config.r_max
        self.w_off = nn.Linear(l1, 2 * config.learned_offsets)
        self.w_loc = nn.Linear(l1 + 4 * OFFSET_FREQUENCIES, d)
        self.w_q = nn.Linear(l1 + 4 * PE_FREQUENCIES, d)
        self.w_v2 = nn.Linear(l2, d, bias=False)
        self.w_v4 = nn.Linear(l4, d, bias=False)
        self.e_level = nn.Parameter(torch.empty(len(STRIDES), d))
        self.rpe = nn.Parameter(torch.empty(WINDOW_SIDES[1] ** 2, d))
        nn.init.trunc_normal_(self.e_level, std=0.02)
        nn.init.trunc_normal_(self.rpe, std=0.02)

    def forward(self, cache: Cache, points_BK2: Tensor) -> tuple[Tensor, Tensor]:
        """Points (u, v) in pixels to the seed h0 [B, K, D] and T_unified [B, K, 92, D].

        Token order: 24 fixed L1 (5x5 without the centre, row by row), 8 learned, the centre, 25 L2, 25 L3, 9 L4.
        """
        l1, l2, l3, l4 = cache.pyramid
        p1, p2, p3, p4 = (points_BK2[:, :, None] / stride for stride in STRIDES)
        f_BKC = bilinear(l1, p1)[:, :, 0]
        seed_BKD = self.w_q(torch.cat([f_BKC, positional_encoding(points_BK2, cache.height, cache.width)], dim=-1))

        window2, window3, window4 = (window_offsets(side, points_BK2) for side in WINDOW_SIDES[1:])
        tokens = [
            self.local_tokens(l1, p1, f_BKC) + self.e_level[0],
            self.w_v2(bilinear(l2, p2 + window2)) + self.e_level[1] + self.rpe,
            bilinear(l3, p3 + window3) + self.e_level[2] + self.rpe,
            self.w_v4(bilinear(l4, p4 + window4)) + self.e_level[3] + self.inner_rpe(),
        ]
        return seed_BKD, torch.cat(tokens, dim=2)

    def local_tokens(self, l1_BCHW: Tensor, p1_BK12: Tensor, f_BKC: Tensor) -> Tensor:
        """h_delta of the 33 L1 offsets around p1 in L1 cells, whose centre feature is f: [B, K, 33, D]."""
        window = window_offsets(WINDOW_SIDES[0], p1_BK12)
        centre = len(window) // 2
        fixed = torch.cat([window[:centre], window[centre + 1 :]])
        learned_BKM2 = self.r_max * torch.tanh(in_float32(self.w_off, f_BKC)).unflatten(-1, (-1, 2))
        delta_BKN2 = torch.cat(
            [fixed.expand(*f_BKC.shape[:2], -1, -1), learned_BKM2, torch.zeros_like(learned_BKM2[:, :, :1])], dim=2
        )
        f_delta = torch.cat([bilinear(l1_BCHW, p1_BK12 + delta_BKN2[:, :, :-1]), f_BKC[:, :, None]], dim=2)
        return F.gelu(self.w_loc(torch.cat([f_delta, offset_encoding(delta_BKN2, self.r_max)], dim=-1)))

    def inner_rpe(self) -> Tensor:
        """The 3x3 middle of the 5x5 table rpe: [9, D]."""
        side = WINDOW_SIDES[1]
        return self.rpe.unflatten(0, (side, side))[1:-1, 1:-1].flatten(0, 1)
