"""The encoder in deployment form: image to cache (design 3, 4). Maps are channels-last, [B, H, W, C] or [B, N, C]."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.layers import (
    Dense,
    FeedForward,
    Precision,
    attend,
    fold_norm,
    normalise,
    statistics,
)
from export.stages import Conv, Stage
from spd.models import SPD
from spd.models.attention import MapSelfAttn, split_heads
from spd.models.pyramid_neck import Projection
from spd.models.spd import IMAGENET_MEAN, IMAGENET_STD


class DeployedEncoder(nn.Module):
    """Image uint8 [B, H, W, 3] to the cache, in the order of `spd.bundle.contract.cache_tensors`."""

    def __init__(self, model: SPD, precision: Precision) -> None:
        super().__init__()
        dtype = precision.graph
        backbone: Any = model.encoder.backbone
        self.normalisation, patches = input_layers(backbone["stem_0"], precision)
        self.stem = nn.ModuleList([patches, Norm(backbone["stem_1"], dtype)])
        self.stages = nn.ModuleList(Stage(backbone[f"stages_{i}"], precision) for i in range(4))
        self.l3_self_attn = SelfAttention(model.encoder.l3_self_attn, precision)
        self.neck = Neck(model, precision)
        self.l4_self_attn = SelfAttention(model.neck.l4_self_attn, precision)
        self.precompute = Precompute(model, dtype)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Encode RGB images as bytes; normalisation happens here."""
        x = self.normalisation(image)
        for layer in self.stem:
            x = layer(x)
        stage1 = self.stages[0](x)
        stage2 = self.stages[1](stage1)
        stage3 = self.l3_self_attn(self.stages[2](stage2))
        stage4 = self.stages[3](stage3)
        l1, l2, l3, l4 = self.neck(stage1, stage2, stage3, stage4)
        return self.precompute(l1, l2, l3, self.l4_self_attn(l4))


class Normalisation(nn.Module):
    """Bytes to ImageNet-normalised values, in float32: one multiplication and one addition."""

    def __init__(self, precision: Precision) -> None:
        super().__init__()
        self.precision = precision
        mean, std = (torch.tensor(values, dtype=torch.float64) for values in (IMAGENET_MEAN, IMAGENET_STD))
        self.scale = nn.Parameter((1 / (255 * std)).to(precision.wide), requires_grad=False)
        self.shift = nn.Parameter((-mean / std).to(precision.wide), requires_grad=False)

    def forward(self, image: Tensor) -> Tensor:
        """uint8 [B, H, W, 3] to the graph's dtype."""
        return (image.to(self.precision.wide) * self.scale + self.shift).to(self.precision.graph)


class Bytes(nn.Module):
    """Bytes to the graph's dtype, where what follows normalises them."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, image: Tensor) -> Tensor:
        """uint8 [B, H, W, 3] to the same numbers."""
        return image.to(self.dtype)  # first of all, as TensorRT's parser takes bytes for nothing but a Cast


def input_layers(conv: nn.Conv2d, precision: Precision) -> tuple[nn.Module, Conv]:
    """What an image goes through in front of the stem's LayerNorm: normalisation, and the convolution of 4x4 patches.

    For a CPU the convolution does both, as its patches need no padding. ONNX Runtime multiplies and adds three numbers
    for three channels slowly: a stem without them takes a third of the time.
    """
    if precision.for_gpu:
        return Normalisation(precision), Conv(conv, precision)
    assert conv.bias is not None
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in (IMAGENET_MEAN, IMAGENET_STD))
    folded = copy.deepcopy(conv).double()
    weight = conv.weight.detach().double()
    folded.weight = nn.Parameter(weight / (255 * std)[:, None, None])
    folded.bias = nn.Parameter(conv.bias.detach().double() - torch.einsum("oihw,i->o", weight, mean / std))
    return Bytes(precision.graph), Conv(folded, precision)


class Norm(nn.Module):
    """LayerNorm over channels where its affine part cannot be folded."""

    def __init__(self, ln: nn.LayerNorm, dtype: torch.dtype) -> None:
        super().__init__()
        self.eps = ln.eps
        self.weight = nn.Parameter(ln.weight.detach().to(dtype), requires_grad=False)
        self.bias = nn.Parameter(ln.bias.detach().to(dtype), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] to [..., C]."""
        return F.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)


class NormOfProduct(Norm):
    """The same for a GPU, after a matrix product.

    Of the operator LayerNormalization the compiler casts to float32 within the product and writes that. Here only the
    statistics are float32, and the values are read in their own type: 15 MB less for the neck of `tiny`.
    """

    def __init__(self, ln: nn.LayerNorm, precision: Precision) -> None:
        super().__init__(ln, precision.graph)
        self.wide = precision.wide

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] to [..., C]."""
        mean, deviation = statistics(x, self.eps, self.wide)
        return (x - mean.to(x.dtype)) * (self.weight / deviation.to(x.dtype)) + self.bias


class SelfAttention(nn.Module):
    """Layers of FullSelfAttn over all cells of a map (paper 4.1, 4.3)."""

    def __init__(self, layers: MapSelfAttn, precision: Precision) -> None:
        super().__init__()
        self.layers = nn.ModuleList(SelfAttentionLayer(layer, precision) for layer in layers)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """[B, H, W, C] to [B, H, W, C]."""
        x_BNC = x_BHWC.flatten(1, 2)
        for layer in self.layers:
            x_BNC = layer(x_BNC)
        return x_BNC.unflatten(1, x_BHWC.shape[1:3])


class SelfAttentionLayer(nn.Module):
    """FullSelfAttn. Keys have no bias (it cancels in the softmax), the bias of the values is in that of the output.

    On a GPU queries, keys and values are one product, split after its heads are: one kernel brings all three into the
    order that the attention reads, instead of one for each.
    """

    def __init__(self, layer: Any, precision: Precision) -> None:
        super().__init__()
        self.heads, self.eps, self.for_gpu = layer.heads, layer.ln.eps, precision.for_gpu
        dtype = precision.graph
        (w_q, w_k, w_v), (b_q, _, b_v) = (
            part.chunk(3) for part in fold_norm(layer.ln, layer.w_qkv.weight, layer.w_qkv.bias)
        )
        scale = (w_q.shape[0] // self.heads) ** -0.5
        w_q, b_q = w_q * scale, b_q * scale
        if self.for_gpu:
            self.w_qkv = Dense(torch.cat([w_q, w_k, w_v]), F.pad(b_q, (0, 2 * len(b_q))), dtype)
        else:
            self.w_q = Dense(w_q, b_q, dtype)
            self.w_k = Dense(w_k, None, dtype)
            self.w_v = Dense(w_v, None, dtype)
        weight_o = layer.w_o.weight.double()
        self.w_o = Dense(weight_o, layer.w_o.bias.double() + weight_o @ b_v, dtype)
        self.ffn = FeedForward(layer.ln_ff, layer.ffn, dtype)

    def forward(self, x_BNC: Tensor) -> Tensor:
        """[B, N, C] to [B, N, C]."""
        normalised = normalise(x_BNC, self.eps)
        if self.for_gpu:
            q, k, v = split_heads(self.w_qkv(normalised), 3 * self.heads).split(self.heads, dim=1)
        else:
            q, k, v = (split_heads(w(normalised), self.heads) for w in (self.w_q, self.w_k, self.w_v))
        x_BNC = x_BNC + self.w_o(attend(q, k, v).transpose(1, 2).flatten(2))
        return self.ffn(x_BNC)


class Neck(nn.Module):
    """The projections to the pyramid (paper 4.2). The affine part of L2's LN is folded into the next layer."""

    def __init__(self, model: SPD, precision: Precision) -> None:
        super().__init__()
        dtype = precision.graph
        self.dense = nn.ModuleList()
        self.norms = nn.ModuleList()
        for level, projection in enumerate(model.neck.projections):
            assert isinstance(projection, Projection)
            self.dense.append(Dense(projection.conv.weight.flatten(1), projection.conv.bias, dtype))
            if level == 1:
                self.norms.append(Plain(projection.ln.eps))
            else:
                self.norms.append(
                    NormOfProduct(projection.ln, precision) if precision.for_gpu else Norm(projection.ln, dtype)
                )

    def forward(self, *stages_BHWC: Tensor) -> tuple[Tensor, ...]:
        """Four stages to L1..L4, [B, H / s_l, W / s_l, C_l]."""
        return tuple(norm(dense(stage)) for dense, norm, stage in zip(self.dense, self.norms, stages_BHWC, strict=True))


class Plain(nn.Module):
    """LayerNorm without its affine part, as a module."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] to [..., C]."""
        return normalise(x, self.eps)


class Precompute(nn.Module):
    """Pyramid to cache (paper 5; rewrites 4, 7 and 8 of design 4): one dense layer for each level."""

    def __init__(self, model: SPD, dtype: torch.dtype) -> None:
        super().__init__()
        pre: Any = model.precompute
        neck: Any = model.neck
        b1, b5 = model.b1, model.b5
        self.heads, self.d = model.config.heads, model.config.d
        self.eps_kv2 = b5.ln_kv2.eps
        hat2, hat3, hat4 = pre.central
        self.e_g = nn.Parameter(b5.e_g.detach().to(dtype), requires_grad=False)
        ln2 = neck.projections[1].ln

        # W_v2 and W_v4 have no bias and so commute with bilinear sampling; the ring of zeros comes after the layer.
        weight2 = torch.cat([b1.w_v2.weight, hat2.weight.flatten(1)])
        self.l2 = Dense(*fold_norm(ln2, weight2, _biases(b1.w_v2, hat2)), dtype)
        kv3, kv4 = ([w for kv in level for w in (kv.w_k, kv.w_v)] for level in (pre.l3_kv, pre.l4_kv))
        self.l3 = Dense(torch.cat([m.weight.flatten(1) for m in (hat3, *kv3)]), _biases(hat3, *kv3), dtype)
        heads4 = (b1.w_v4, hat4, *kv4, pre.w_g)
        self.l4 = Dense(torch.cat([m.weight.flatten(1) for m in heads4]), _biases(*heads4), dtype)

    def forward(self, l1: Tensor, l2: Tensor, l3: Tensor, l4: Tensor) -> tuple[Tensor, ...]:
        """L1..L4, [B, H / s_l, W / s_l, C_l], to the cache."""
        l2_map, l2_central = self.l2(l2).split(self.d, dim=-1)
        l3_central, *l3_kv = self.l3(l3).split(self.d, dim=-1)
        l4_map, l4_central, *l4_kv, g = self.l4(l4).split(self.d, dim=-1)
        maps = (l1, l2_map, l3, l4_map, l2_central, l3_central, l4_central)
        keys_values = (split_heads(x.flatten(1, 2), self.heads) for x in (*l3_kv, *l4_kv))
        routed = normalise(g.flatten(1, 2) + self.e_g, self.eps_kv2)
        return (*(ringed(x) for x in maps), *keys_values, routed)


def ringed(map_BHWC: Tensor) -> Tensor:
    """Put a ring of zeros around a map and list its cells row by row: [B, (H + 2) * (W + 2), C]."""
    return F.pad(map_BHWC, (0, 0, 1, 1, 1, 1)).flatten(1, 2)


def _biases(*layers: Any) -> Tensor:
    """The biases of layers that become one, zeros for those without."""
    return torch.cat(
        [layer.weight.new_zeros(len(layer.weight)) if layer.bias is None else layer.bias for layer in layers]
    )
