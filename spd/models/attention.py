"""Attention layers shared by the encoder (paper 4) and the decoder (paper 6.2 to 6.5)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spd.models.precision import in_float32


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[..., N, D] to [..., heads, N, D / heads]."""
    return x.unflatten(-1, (heads, -1)).transpose(-2, -3)


def merge_heads(x: Tensor) -> Tensor:
    """[..., heads, N, D / heads] to [..., N, D]."""
    return x.transpose(-2, -3).flatten(-2)


class FeedForward(nn.Sequential):
    """FFN: d -> ratio * d -> d with GELU."""

    def __init__(self, d: int, ratio: int, dropout: float = 0.0) -> None:
        super().__init__(nn.Linear(d, ratio * d), nn.GELU(), nn.Dropout(dropout), nn.Linear(ratio * d, d))


class FullSelfAttn(nn.Module):
    """FullSelfAttn (paper 4): one Pre-LN layer in which every cell sees all cells."""

    def __init__(self, d: int, heads: int, ffn_ratio: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.ln = nn.LayerNorm(d)
        self.w_qkv = nn.Linear(d, 3 * d)
        self.w_o = nn.Linear(d, d)
        self.ln_ff = nn.LayerNorm(d)
        self.ffn = FeedForward(d, ffn_ratio, dropout)

    def forward(self, x_BNC: Tensor) -> Tensor:
        """[B, N, C] to [B, N, C]."""
        q, k, v = (split_heads(part, self.heads) for part in self.w_qkv(self.ln(x_BNC)).chunk(3, dim=-1))
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0)
        x_BNC = x_BNC + self.w_o(merge_heads(mixed))
        return x_BNC + self.ffn(self.ln_ff(x_BNC))


class MapSelfAttn(nn.Sequential):
    """Layers of FullSelfAttn over a feature map."""

    def __init__(self, layers: int, d: int, heads: int, ffn_ratio: int, dropout: float) -> None:
        super().__init__(*(FullSelfAttn(d, heads, ffn_ratio, dropout) for _ in range(layers)))

    def forward(self, map_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C, H, W]."""
        tokens_BNC = map_BCHW.flatten(2).transpose(1, 2)
        for layer in self:
            tokens_BNC = layer(tokens_BNC)
        return tokens_BNC.transpose(1, 2).unflatten(2, map_BCHW.shape[2:])


class DecoderLayer(nn.Module):
    """What the Pre-LN layers of the decoder share: queries, output projection and FFN."""

    def __init__(self, d: int, heads: int, ffn_ratio: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.ln_q = nn.LayerNorm(d)
        self.w_q = nn.Linear(d, d)
        self.w_o = nn.Linear(d, d)
        self.ln_ff = nn.LayerNorm(d)
        self.ffn = FeedForward(d, ffn_ratio)

    def update(self, h: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """MHCrossAttn and FFN of queries h [..., Q, D] over keys and values [..., N, D].

        Returns:
            The new h and the attention weights alpha [..., heads, Q, N].
        """
        q, k, v = (split_heads(x, self.heads) for x in (self.w_q(self.ln_q(h)), k, v))
        alpha = (self.products(q, k.transpose(-1, -2)) / q.shape[-1] ** 0.5).softmax(dim=-1)
        mixed = F.dropout(alpha, self.dropout, self.training) @ v
        h = h + self.w_o(merge_heads(mixed))
        return h + self.ffn(self.ln_ff(h)), alpha

    def products(self, q: Tensor, k: Tensor) -> Tensor:
        """Queries [..., Q, C] times keys [..., C, N]: [..., Q, N]."""
        return q @ k


class CrossAttnLayer(DecoderLayer):
    """A layer whose keys and values are shared by all queries of an image: B3a and B3b (paper 6.3a, 6.3b)."""

    def forward(self, h_BKD: Tensor, k_BND: Tensor, v_BND: Tensor) -> tuple[Tensor, Tensor]:
        """Queries h [B, K, D] to the new h and alpha [B, heads, K, N], which B3b's routing averages."""
        return self.update(h_BKD, k_BND, v_BND)

    def products(self, q: Tensor, k: Tensor) -> Tensor:
        """As above, in float32: B3b chooses its routes by them."""
        return in_float32(torch.matmul, q, k)


class TokenCrossAttnLayer(DecoderLayer):
    """A layer in which each query has tokens of its own: B2 and B5 (paper 6.2, 6.5)."""

    def __init__(self, d: int, heads: int, ffn_ratio: int, dropout: float) -> None:
        super().__init__(d, heads, ffn_ratio, dropout)
        self.w_k = nn.Linear(d, d)
        self.w_v = nn.Linear(d, d)

    def forward(self, h_BKD: Tensor, tokens_BKND: Tensor) -> Tensor:
        """Queries h [B, K, D] over their normalised tokens [B, K, N, D], to h [B, K, D]."""
        h_BK1D, _ = self.update(h_BKD[:, :, None], self.w_k(tokens_BKND), self.w_v(tokens_BKND))
        return h_BK1D[:, :, 0]
