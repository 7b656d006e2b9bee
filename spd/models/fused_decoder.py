"""B5: cross-attention over 3 central and 20 routed tokens, and the depth head (paper 6.5)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from spd.config import STRIDES, SPDConfig
from spd.models.attention import TokenCrossAttnLayer
from spd.models.precision import in_float32
from spd.models.precompute import Cache
from spd.models.sampling import bilinear


class FusedDecoder(nn.Module):
    """B5 and the depth head."""

    def __init__(self, config: SPDConfig) -> None:
        super().__init__()
        d = config.d
        self.e_central = nn.Parameter(torch.zeros(3, d))
        self.e_g = nn.Parameter(torch.zeros(d))
        self.ln_kv2 = nn.LayerNorm(d)
        self.layers = nn.ModuleList(
            TokenCrossAttnLayer(d, config.heads, config.ffn_ratio, config.dropout) for _ in range(config.b5_layers)
        )
        self.w_r1 = nn.Linear(d, 2 * d)
        self.w_r2 = nn.Linear(2 * d, 1)
        # Predictions start at 2.5 m, the median of NYU (paper 6.5).
        nn.init.constant_(self.w_r2.bias, math.log(2.5))

    def forward(self, h_BKD: Tensor, cache: Cache, points_BK2: Tensor, routes_BKR: Tensor) -> Tensor:
        """h3b [B, K, D], points (u, v) in pixels and routed L4 positions to log-depth [B, K], depth in metres."""
        tokens_BKND = self.ln_kv2(self.tokens(cache, points_BK2, routes_BKR))
        for layer in self.layers:
            h_BKD = layer(h_BKD, tokens_BKND)
        log_depth_BK1 = in_float32(self.w_r2, nn.functional.gelu(self.w_r1(h_BKD)))
        return log_depth_BK1[..., 0]

    def tokens(self, cache: Cache, points_BK2: Tensor, routes_BKR: Tensor) -> Tensor:
        """T_B5 [B, K, 23, D]: the central tokens of L2, L3, L4, then the routed ones."""
        central = [
            bilinear(hat, points_BK2[:, :, None] / stride) + e
            for hat, stride, e in zip(cache.central, STRIDES[1:], self.e_central, strict=True)
        ]
        images = torch.arange(len(routes_BKR), device=routes_BKR.device)[:, None, None]
        routed_BKRD = cache.g[images, routes_BKR] + self.e_g
        return torch.cat([*central, routed_BKRD], dim=2)
