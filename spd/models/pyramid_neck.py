"""Channel projection to the decoder pyramid and L4 self-attention (paper 4.2, 4.3)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from spd.config import SPDConfig
from spd.models.attention import MapSelfAttn


class Projection(nn.Module):
    """Conv 1x1 + LN over channels."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, kernel_size=1)
        self.ln = nn.LayerNorm(channels_out)

    def forward(self, map_BCHW: Tensor) -> Tensor:
        """[B, C_in, H, W] to [B, C_out, H, W]."""
        normalised_BHWC = self.ln(self.conv(map_BCHW).permute(0, 2, 3, 1))
        return normalised_BHWC.permute(0, 3, 1, 2)


class PyramidNeck(nn.Module):
    """Stages 1..4 to the pyramid L1..L4."""

    def __init__(self, config: SPDConfig) -> None:
        super().__init__()
        widths = zip(config.backbone_channels, config.neck_channels, strict=True)
        self.projections = nn.ModuleList(Projection(c_in, c_out) for c_in, c_out in widths)
        self.l4_self_attn = MapSelfAttn(
            config.self_attn_layers, config.neck_channels[3], config.l4_heads, config.ffn_ratio, config.dropout
        )

    def forward(self, stages: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Stages [B, C_l, H / s_l, W / s_l] to L1..L4 of the neck's widths."""
        l1, l2, l3, l4 = (project(stage) for project, stage in zip(self.projections, stages, strict=True))
        return l1, l2, l3, self.l4_self_attn(l4)
