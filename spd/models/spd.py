"""SPD: encode an image once, then read depth at any points (paper 2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spd.config import SPDConfig, check_size
from spd.models.encoder import Encoder
from spd.models.fused_decoder import FusedDecoder
from spd.models.global_cross_attn import GlobalCrossAttn, route
from spd.models.local_cross_attn import LocalCrossAttn
from spd.models.precompute import Cache, Precompute
from spd.models.pyramid_neck import PyramidNeck
from spd.models.query_encoder import QueryEncoder
from spd.models.sampling import constants

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalised(image_B3HW: Tensor) -> Tensor:
    """RGB images [B, 3, H, W], values 0..1, as ImageNet's backbones take them."""
    mean, std = (constants(values, image_B3HW)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (image_B3HW - mean) / std


class SPD(nn.Module):
    """The network as the paper writes it: the reference for every deployed form."""

    def __init__(self, config: SPDConfig) -> None:
        """Build the network with random weights."""
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.neck = PyramidNeck(config)
        self.precompute = Precompute(config)
        self.b1 = QueryEncoder(config)
        self.b2 = LocalCrossAttn(config)
        self.b3a = GlobalCrossAttn(config)
        self.b3b = GlobalCrossAttn(config)
        self.b5 = FusedDecoder(config)

    def forward(self, image_B3HW: Tensor, points_BK2: Tensor) -> Tensor:
        """Depth in metres [B, K] of points (u, v) in pixels, for RGB images [B, 3, H, W] with values in 0..1."""
        return self.decode(self.encode(image_B3HW), points_BK2)[0]

    def encode(self, image_B3HW: Tensor) -> Cache:
        """Encode RGB images [B, 3, H, W], values 0..1, H and W multiples of 32; normalised here.

        Raises:
            ValueError: H or W does not fit the network.
        """
        height, width = image_B3HW.shape[-2:]
        check_size(height, width, self.config)
        pyramid = self.neck(self.encoder(normalised(image_B3HW)))
        return self.precompute(pyramid, height, width)

    def decode(self, cache: Cache, points_BK2: Tensor) -> tuple[Tensor, Tensor]:
        """Depth in metres [B, K] and R_q, int64 [B, K, R] (paper 6), of points (u, v) [B, K, 2] in pixels."""
        h, tokens = self.b1(cache, points_BK2)
        h = self.b2(h, tokens)
        h, _ = self.b3a(h, cache.l3_kv)
        h, alpha = self.b3b(h, cache.l4_kv)
        routes = route(alpha, self.config.routed_tokens)
        log_depth = self.b5(h, cache, points_BK2, routes)
        return log_depth.exp(), routes


def seeded(config: SPDConfig, seed: int = 0) -> SPD:
    """An untrained network with every term alive, the same for the same seed: for trying the tools without weights.

    ConvNeXt V2 starts with GRN switched off and B5 with zero type embeddings; a network like that would let an export
    that forgets them pass. So all vectors (norms, biases, embeddings) are moved off their initial value.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SPD(config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim == 1 or name.startswith("b5.e_"):
                    parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()
