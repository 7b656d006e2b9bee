"""What the decoder needs of an image, computed once (paper 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from spd.config import SPDConfig


@dataclass(frozen=True)
class Cache:
    """The paper's cache (its section 5) in literal form."""

    height: int
    """Image height, pixels."""
    width: int
    """Image width, pixels."""
    pyramid: tuple[Tensor, Tensor, Tensor, Tensor]
    """L1..L4, [B, C_l, H / s_l, W / s_l]."""
    l3_kv: tuple[tuple[Tensor, Tensor], ...]
    """K and V of L3 for each layer of B3a, [B, N_L3, d]."""
    l4_kv: tuple[tuple[Tensor, Tensor], ...]
    """K and V of L4 for each layer of B3b, [B, N_L4, d]."""
    g: Tensor
    """Tokens that B5 gathers, [B, N_L4, d]."""
    central: tuple[Tensor, Tensor, Tensor]
    """L-hat 2..4, which B5 samples at the query, [B, d, H / s_l, W / s_l]."""


class KV(nn.Module):
    """W_K and W_V of one global cross-attention layer; the paper writes them without bias (5.1, 5.1b)."""

    def __init__(self, channels: int, d: int) -> None:
        super().__init__()
        self.w_k = nn.Linear(channels, d, bias=False)
        self.w_v = nn.Linear(channels, d, bias=False)

    def forward(self, tokens_BNC: Tensor) -> tuple[Tensor, Tensor]:
        """[B, N, C] to K and V [B, N, d]."""
        return self.w_k(tokens_BNC), self.w_v(tokens_BNC)


class Precompute(nn.Module):
    """K and V for B3a and B3b, and the projected maps for B5."""

    def __init__(self, config: SPDConfig) -> None:
        super().__init__()
        _, l2, l3, l4 = config.neck_channels
        self.l3_kv = nn.ModuleList(KV(l3, config.d) for _ in range(config.b3_layers))
        self.l4_kv = nn.ModuleList(KV(l4, config.d) for _ in range(config.b3_layers))
        self.w_g = nn.Linear(l4, config.d, bias=False)
        self.central = nn.ModuleList(nn.Conv2d(c, config.d, kernel_size=1) for c in (l2, l3, l4))

    def forward(self, pyramid: Sequence[Tensor], height: int, width: int) -> Cache:
        """Pyramid L1..L4 of an image of height x width pixels to its cache."""
        l1, l2, l3, l4 = pyramid
        l3_BNC, l4_BNC = (level.flatten(2).transpose(1, 2) for level in (l3, l4))
        hat2, hat3, hat4 = (project(level) for project, level in zip(self.central, (l2, l3, l4), strict=True))
        return Cache(
            height=height,
            width=width,
            pyramid=(l1, l2, l3, l4),
            l3_kv=tuple(kv(l3_BNC) for kv in self.l3_kv),
            l4_kv=tuple(kv(l4_BNC) for kv in self.l4_kv),
            g=self.w_g(l4_BNC),
            central=(hat2, hat3, hat4),
        )
