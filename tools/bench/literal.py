"""The network as the paper writes it, exported to ONNX as it is: `encoder.onnx` and `decoder.onnx`, for one image."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn

from spd.config import SPDConfig
from spd.models import SPD, Cache, seeded
from tools.bench.tracing import write_onnx

MAX_POINTS = 1 << 20


def flatten(cache: Cache) -> tuple[Tensor, ...]:
    """The tensors of a cache in the order of its fields."""
    pairs = [tensor for pair in (*cache.l3_kv, *cache.l4_kv) for tensor in pair]
    return (*cache.pyramid, *pairs, cache.g, *cache.central)


def unflatten(tensors: Sequence[Tensor], height: int, width: int, layers: int) -> Cache:
    """The cache of an image of height x width pixels, from what `flatten` gave; `layers` of B3a and of B3b each."""
    left = iter(tensors)
    l1, l2, l3, l4 = islice(left, 4)
    pairs = [(next(left), next(left)) for _ in range(2 * layers)]
    g = next(left)
    hat2, hat3, hat4 = left
    return Cache(height, width, (l1, l2, l3, l4), tuple(pairs[:layers]), tuple(pairs[layers:]), g, (hat2, hat3, hat4))


class LiteralEncoder(nn.Module):
    """`SPD.encode` with the deployed graph's input."""

    def __init__(self, model: SPD) -> None:
        super().__init__()
        self.model = model

    def forward(self, image_BHW3: Tensor) -> tuple[Tensor, ...]:
        """RGB, uint8 [B, H, W, 3], to the tensors of the cache."""
        return flatten(self.model.encode(image_BHW3.permute(0, 3, 1, 2) / 255))


class LiteralDecoder(nn.Module):
    """`SPD.decode` with the cache as single tensors."""

    def __init__(self, model: SPD, height: int, width: int) -> None:
        super().__init__()
        self.model = model
        self.height, self.width = height, width

    def forward(self, *inputs: Tensor) -> Tensor:
        """The tensors of the cache and points [B, K, 2] to depth [B, K]."""
        cache = unflatten(inputs[:-1], self.height, self.width, self.model.config.b3_layers)
        depth_BK, _ = self.model.decode(cache, inputs[-1])
        return depth_BK


def export_literal(config: SPDConfig, height: int, width: int, folder: Path) -> None:
    """Write both graphs of the untrained network for images of height x width pixels; K is dynamic, B is 1."""
    model = seeded(config)
    encoder, decoder = LiteralEncoder(model), LiteralDecoder(model, height, width)
    image = torch.zeros(1, height, width, 3, dtype=torch.uint8)
    with torch.no_grad():
        cache = tuple(tensor.contiguous() for tensor in encoder(image))
    names = [f"cache_{i}" for i in range(len(cache))]
    points = torch.tensor([[[0.5, 0.5], [width / 2, height / 2], [1.5, 1.5]]])
    any_points = {1: torch.export.Dim("K", min=1, max=MAX_POINTS)}
    write_onnx(encoder, (image,), folder / "encoder.onnx", ["image"], names)
    shapes = ((*({} for _ in cache), any_points),)
    write_onnx(decoder, (*cache, points), folder / "decoder.onnx", [*names, "points"], ["depth"], shapes)
