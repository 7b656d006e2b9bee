"""The backbone, split so that stage 3 passes through self-attention before stage 4 (paper 3, 4.1)."""

from __future__ import annotations

from typing import Any

import timm
from torch import Tensor, nn

from spd.config import SPDConfig
from spd.models.attention import MapSelfAttn


class Encoder(nn.Module):
    """ConvNeXt V2 with L3 self-attention between stages 3 and 4."""

    def __init__(self, config: SPDConfig) -> None:
        super().__init__()
        # conv_mlp=False gives every variant the same dense layers; small ones are published with 1x1 convolutions.
        backbone: Any = timm.create_model(config.backbone, features_only=True, conv_mlp=False)
        channels = tuple(backbone.feature_info.channels())
        if channels != config.backbone_channels:
            raise ValueError(f"{config.backbone} has channels {channels}, the config says {config.backbone_channels}")
        self.backbone = backbone
        self.l3_self_attn = MapSelfAttn(
            config.self_attn_layers, channels[2], config.l3_heads, config.ffn_ratio, config.dropout
        )

    def forward(self, x_B3HW: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Normalised image [B, 3, H, W] to the four stages [B, C_l, H / s_l, W / s_l]; the third is L3_enhanced."""
        net: Any = self.backbone
        stage1 = net["stages_0"](net["stem_1"](net["stem_0"](x_B3HW)))
        stage2 = net["stages_1"](stage1)
        stage3 = self.l3_self_attn(net["stages_2"](stage2))
        stage4 = net["stages_3"](stage3)
        return stage1, stage2, stage3, stage4
