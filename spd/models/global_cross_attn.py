"""B3a over all of L3, B3b over all of L4 with routing (paper 6.3a, 6.3b)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from spd.config import SPDConfig
from spd.models.attention import CrossAttnLayer


class GlobalCrossAttn(nn.Module):
    """B3a or B3b: layers over keys and values computed once per image."""

    def __init__(self, config: SPDConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            CrossAttnLayer(config.d, config.heads, config.ffn_ratio, config.dropout) for _ in range(config.b3_layers)
        )

    def forward(self, h_BKD: Tensor, kv: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Queries h [B, K, D] and K, V per layer [B, N, D] to h [B, K, D] and alpha-bar [B, K, N] of the last layer."""
        for layer, (k, v) in zip(self.layers, kv, strict=True):
            h_BKD, alpha_BMKN = layer(h_BKD, k, v)
        return h_BKD, alpha_BMKN.mean(dim=1)


def route(alpha_BKN: Tensor, count: int) -> Tensor:
    """R_q: the `count` L4 positions with the largest head-averaged weights, largest first: int64 [B, K, count]."""
    return alpha_BKN.topk(count, dim=-1).indices
