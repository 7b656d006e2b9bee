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
    centred,
    fold_norm,
    normalise,
    statistics,
    without_affine,
)
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
        self.normalisation = Normalisation(precision)
        self.stem = nn.ModuleList([Conv(backbone["stem_0"], dtype), Norm(backbone["stem_1"], dtype)])
        self.stages = nn.ModuleList(Stage(backbone[f"stages_{i}"], precision) for i in range(4))
        self.l3_self_attn = SelfAttention(model.encoder.l3_self_attn, dtype)
        self.neck = Neck(model, precision)
        self.l4_self_attn = SelfAttention(model.neck.l4_self_attn, dtype)
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


class Conv(nn.Module):
    """A convolution of a channels-last map: depthwise 7x7, or a patch per output cell."""

    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype) -> None:
        super().__init__()
        assert conv.bias is not None
        assert isinstance(conv.padding, tuple)
        self.stride, self.padding, self.groups = conv.stride, conv.padding, conv.groups
        self.weight = nn.Parameter(conv.weight.detach().to(dtype), requires_grad=False)
        self.bias = nn.Parameter(conv.bias.detach().to(dtype), requires_grad=False)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """[B, H, W, C_in] to [B, H', W', C_out]."""
        x_BCHW = x_BHWC.permute(0, 3, 1, 2)
        y_BCHW = F.conv2d(x_BCHW, self.weight, self.bias, self.stride, self.padding, groups=self.groups)
        return y_BCHW.permute(0, 2, 3, 1)


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


class Stage(nn.Module):
    """A ConvNeXt V2 stage: downsampling (none in stage 1) and blocks."""

    def __init__(self, stage: Any, precision: Precision) -> None:
        super().__init__()
        dtype = precision.graph
        self.downsample = nn.ModuleList()
        if not isinstance(stage.downsample, nn.Identity):
            norm, conv = stage.downsample
            weight, bias = conv.weight.double(), conv.bias.double()
            # 2x2 patches without padding, so the affine part of the LayerNorm folds into the convolution.
            folded = copy.deepcopy(conv).double()
            folded.weight.data = centred(weight * norm.weight.double()[:, None, None])
            folded.bias.data = bias + torch.einsum("oihw,i->o", weight, norm.bias.double())
            self.eps, self.precision = norm.eps, precision
            self.downsample.append(Conv(folded, dtype))
        self.blocks = nn.ModuleList(Block(block, precision) for block in stage.blocks)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """[B, H, W, C_in] to [B, H', W', C_out]."""
        for conv in self.downsample:
            x_BHWC = conv(without_affine(x_BHWC, self.eps, self.precision))
        for block in self.blocks:
            x_BHWC = block(x_BHWC)
        return x_BHWC


class Block(nn.Module):
    """A ConvNeXt V2 block: depthwise 7x7, LN, fc1, GELU, GRN, fc2, residual (paper 3)."""

    def __init__(self, block: Any, precision: Precision) -> None:
        super().__init__()
        dtype = precision.graph
        fc1, fc2, grn = block.mlp.fc1, block.mlp.fc2, block.mlp.grn
        self.eps, self.factor_in_weights = block.norm.eps, precision.for_gpu and not precision.constant_weights
        self.conv = Conv(block.conv_dw, dtype)
        self.fc1 = Dense(*fold_norm(block.norm, fc1.weight, fc1.bias), dtype)
        self.grn = GRN(grn, precision)
        # GRN's bias is added to every cell alike, so it folds into the bias of fc2.
        weight = fc2.weight.double()
        self.fc2 = Dense(weight, fc2.bias.double() + weight @ grn.bias.double(), dtype)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """[B, H, W, C] to [B, H, W, C]."""
        hidden_BHWC = F.gelu(self.fc1(normalise(self.conv(x_BHWC), self.eps)))
        factor_B11C = self.grn(hidden_BHWC)
        x_BNC = x_BHWC.flatten(1, 2)
        # The factor goes into the weights [C, D] where they are fewer than the map's values [N, C]: a GPU moves 165 MB
        # less for `tiny`. A CPU gains nothing from that.
        if self.factor_in_weights and x_BNC.shape[1] > x_BNC.shape[2]:
            return (x_BNC + self.fc2(hidden_BHWC.flatten(1, 2), factor_B11C.flatten(1, 2))).view_as(x_BHWC)
        return x_BHWC + self.fc2(hidden_BHWC * factor_B11C.to(hidden_BHWC.dtype))


class GRN(nn.Module):
    """The factor of Global Response Normalisation, without its bias: `1 + gamma rms / mean(rms)` for every channel.

    The ratio of L2 norms over the map equals the ratio of root mean squares, which stay in range where a float16 sum
    of squares over 19,200 cells overflows. The statistics are float32 (design 4.10).

    For a CPU rows are averaged before their averages are: ONNX Runtime shares a mean among threads over the axes in
    front of the averaged one, so that over all cells at once, with one image, it takes 13 ms for 19,200 x 384 values
    instead of 3. For a GPU that would be one kernel more.
    """

    def __init__(self, grn: Any, precision: Precision) -> None:
        super().__init__()
        self.precision = precision
        self.eps = float(grn.eps)
        self.gamma = nn.Parameter(grn.weight.detach().to(precision.wide), requires_grad=False)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """[B, H, W, C] to [B, 1, 1, C], in the dtype of the islands."""
        cells = x_BHWC.shape[1] * x_BHWC.shape[2]
        wide = x_BHWC.to(self.precision.wide)
        # Not square(), which becomes Pow, at twice the time of Mul.
        squares = wide * wide
        if self.precision.for_gpu:
            rms_B11C = squares.mean(dim=(1, 2), keepdim=True).sqrt()
        else:
            rms_B11C = squares.mean(dim=2, keepdim=True).mean(dim=1, keepdim=True).sqrt()
        # The literal eps is added to the mean of norms, which are sqrt(cells) times the root mean squares.
        response_B11C = rms_B11C / (rms_B11C.mean(dim=-1, keepdim=True) + self.eps / cells**0.5)
        return 1 + self.gamma * response_B11C


class SelfAttention(nn.Module):
    """Layers of FullSelfAttn over all cells of a map (paper 4.1, 4.3)."""

    def __init__(self, layers: MapSelfAttn, dtype: torch.dtype) -> None:
        super().__init__()
        self.layers = nn.ModuleList(SelfAttentionLayer(layer, dtype) for layer in layers)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """[B, H, W, C] to [B, H, W, C]."""
        x_BNC = x_BHWC.flatten(1, 2)
        for layer in self.layers:
            x_BNC = layer(x_BNC)
        return x_BNC.unflatten(1, x_BHWC.shape[1:3])


class SelfAttentionLayer(nn.Module):
    """FullSelfAttn. Keys have no bias (it cancels in the softmax), the bias of the values is in that of the output."""

    def __init__(self, layer: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self.heads, self.eps = layer.heads, layer.ln.eps
        (w_q, w_k, w_v), (b_q, _, b_v) = (
            part.chunk(3) for part in fold_norm(layer.ln, layer.w_qkv.weight, layer.w_qkv.bias)
        )
        scale = (w_q.shape[0] // self.heads) ** -0.5
        self.w_q = Dense(w_q * scale, b_q * scale, dtype)
        self.w_k = Dense(w_k, None, dtype)
        self.w_v = Dense(w_v, None, dtype)
        weight_o = layer.w_o.weight.double()
        self.w_o = Dense(weight_o, layer.w_o.bias.double() + weight_o @ b_v, dtype)
        self.ffn = FeedForward(layer.ln_ff, layer.ffn, dtype)

    def forward(self, x_BNC: Tensor) -> Tensor:
        """[B, N, C] to [B, N, C]."""
        normalised = normalise(x_BNC, self.eps)
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
