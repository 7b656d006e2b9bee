"""B2: cross-attention over the local tokens (paper 6.2)."""

from __future__ import annotations

from torch import Tensor, nn

from spd.config import SPDConfig
from spd.models.attention import TokenCrossAttnLayer


class LocalCrossAttn(nn.Module):
    """B2: layers over T_unified, which one LN_kv normalises for all of them."""

    def __init__(self, config: SPDConfig) -> None:
        super().__init__()
        self.ln_kv = nn.LayerNorm(config.d)
        self.layers = nn.ModuleList(
            TokenCrossAttnLayer(config.d, config.heads, config.ffn_ratio, config.dropout)
            for _ in range(config.b2_layers)
        )

    def forward(self, h_BKD: Tensor, tokens_BKND: Tensor) -> Tensor:
        """h0 [B, K, D] and T_unified [B, K, N, D] to h2 [B, K, D]."""
        tokens_BKND = self.ln_kv(tokens_BKND)
        for layer in self.layers:
            h_BKD = layer(h_BKD, tokens_BKND)
        return h_BKD
