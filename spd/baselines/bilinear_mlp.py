"""Bilinear + MLP: L1 features at the query and a 2-layer depth head, the simplest sparse baseline (paper 8)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import timm
from torch import Tensor, nn

from spd.config import STRIDES, SPDConfig, check_size
from spd.models.precision import in_float32
from spd.models.pyramid_neck import Projection
from spd.models.sampling import bilinear
from spd.models.spd import normalised


@dataclass(frozen=True)
class L1Cache:
    """All that the head reads of an image."""

    l1: Tensor
    """L1, [B, C_1, H / 4, W / 4]."""


class Stage1(nn.Module):
    """The backbone's stem and stage 1, named as in SPD's encoder.

    The later stages are not made: L1 does not depend on them, and DistributedDataParallel stops at parameters that get
    no gradient.
    """

    def __init__(self, config: SPDConfig) -> None:
        super().__init__()
        backbone: Any = timm.create_model(config.backbone, features_only=True, conv_mlp=False, out_indices=(0,))
        channels = backbone.feature_info.channels()
        if channels != [config.backbone_channels[0]]:
            raise ValueError(f"{config.backbone} has channels {channels}, the config says {config.backbone_channels}")
        self.backbone = backbone

    def forward(self, x_B3HW: Tensor) -> Tensor:
        """Normalised image [B, 3, H, W] to stage 1 [B, C, H / 4, W / 4]."""
        stage1: Tensor = self.backbone(x_B3HW)[0]
        return stage1


class BilinearMLP(nn.Module):
    """The baseline, called like `spd.models.SPD`."""

    def __init__(self, config: SPDConfig) -> None:
        """Build the network with random weights.

        Args:
            config: of the SPD that it is compared with; read are `backbone` and the first of `backbone_channels` and
                of `neck_channels`.
        """
        super().__init__()
        self.config = config
        width = config.neck_channels[0]
        self.encoder = Stage1(config)
        self.neck = Projection(config.backbone_channels[0], width)
        # Like SPD's depth head: twice its input wide, and predictions start at 2.5 m (paper 6.5).
        self.w_1 = nn.Linear(width, 2 * width)
        self.w_2 = nn.Linear(2 * width, 1)
        nn.init.constant_(self.w_2.bias, math.log(2.5))

    def forward(self, image_B3HW: Tensor, points_BK2: Tensor) -> Tensor:
        """Depth in metres [B, K] of points (u, v) in pixels, for RGB images [B, 3, H, W] with values in 0..1."""
        return self.decode(self.encode(image_B3HW), points_BK2)[0]

    def encode(self, image_B3HW: Tensor) -> L1Cache:
        """Encode RGB images [B, 3, H, W], values 0..1, of a size that SPD takes; normalised here.

        Raises:
            ValueError: H or W does not fit SPD.
        """
        height, width = image_B3HW.shape[-2:]
        check_size(height, width, self.config)
        return L1Cache(self.neck(self.encoder(normalised(image_B3HW))))

    def decode(self, cache: L1Cache, points_BK2: Tensor) -> tuple[Tensor, None]:
        """Depth in metres [B, K] of points (u, v) [B, K, 2] in pixels, and None where SPD gives its routes."""
        f_BKC = bilinear(cache.l1, points_BK2[:, :, None] / STRIDES[0])[:, :, 0]
        log_depth_BK1 = in_float32(self.w_2, nn.functional.gelu(self.w_1(f_BKC)))
        return log_depth_BK1[..., 0].exp(), None
