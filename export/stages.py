"""The ConvNeXt V2 stages in deployment form (paper 3). Maps are channels-last, [B, H, W, C] or [B, N, C]."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.layers import Dense, Precision, centred, fold_norm, normalise, without_affine

ROWS_AT_ONCE = 256
"""Rows of weights that ONNX Runtime multiplies at a time. One row more than a multiple takes another pass over the
result: stage 4 of `tiny` takes 1.09 of the time with its bias in the product."""


class Stage(nn.Module):
    """A ConvNeXt V2 stage: downsampling (none in stage 1) and blocks."""

    def __init__(self, stage: Any, precision: Precision) -> None:
        super().__init__()
        self.downsample = nn.ModuleList()
        if not isinstance(stage.downsample, nn.Identity):
            norm, conv = stage.downsample
            weight, bias = conv.weight.double(), conv.bias.double()
            # 2x2 patches without padding, so the affine part of the LayerNorm folds into the convolution.
            folded = copy.deepcopy(conv).double()
            folded.weight.data = centred(weight * norm.weight.double()[:, None, None])
            folded.bias.data = bias + torch.einsum("oihw,i->o", weight, norm.bias.double())
            self.eps, self.precision = norm.eps, precision
            self.downsample.append(Conv(folded, precision))
        self.blocks = nn.ModuleList(Block(block, precision) for block in stage.blocks)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """[B, H, W, C_in] to [B, H', W', C_out]."""
        for conv in self.downsample:
            x_BHWC = conv(without_affine(x_BHWC, self.eps, self.precision))
        for block in self.blocks:
            x_BHWC = block(x_BHWC)
        return x_BHWC


class Conv(nn.Module):
    """A convolution of a channels-last map: depthwise 7x7, or a patch per output cell.

    For a GPU, what a block's convolution reads and what downsampling writes is transposed as a list of cells. For one
    image the compiler takes that as a view of the same bytes, but writes a map that it transposes in four dimensions a
    second time, and no longer within the product that made it.
    """

    def __init__(self, conv: nn.Conv2d, precision: Precision) -> None:
        super().__init__()
        assert conv.bias is not None
        assert isinstance(conv.padding, tuple)
        self.for_gpu = precision.for_gpu
        self.stride, self.padding, self.groups = conv.stride, conv.padding, conv.groups
        self.weight = nn.Parameter(conv.weight.detach().to(precision.graph), requires_grad=False)
        self.bias = nn.Parameter(conv.bias.detach().to(precision.graph), requires_grad=False)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """[B, H, W, C_in] to [B, H', W', C_out]."""
        if self.for_gpu and self.groups > 1:
            x_BCHW = x_BHWC.flatten(1, 2).transpose(1, 2).unflatten(2, x_BHWC.shape[1:3])
        else:
            x_BCHW = x_BHWC.permute(0, 3, 1, 2)
        y_BCHW = F.conv2d(x_BCHW, self.weight, self.bias, self.stride, self.padding, groups=self.groups)
        if self.for_gpu and self.groups == 1:
            return y_BCHW.flatten(2).transpose(1, 2).unflatten(1, y_BCHW.shape[2:])
        return y_BCHW.permute(0, 2, 3, 1)


class Block(nn.Module):
    """A ConvNeXt V2 block: depthwise 7x7, LN, fc1, GELU, GRN, fc2, residual (paper 3)."""

    def __init__(self, block: Any, precision: Precision) -> None:
        super().__init__()
        dtype = precision.graph
        fc1, fc2, grn = block.mlp.fc1, block.mlp.fc2, block.mlp.grn
        self.eps, self.for_gpu, self.constant_weights = block.norm.eps, precision.for_gpu, precision.constant_weights
        self.conv = Conv(block.conv_dw, precision)
        bias_in_product = not (self.for_gpu or self.constant_weights) and fc1.in_features % ROWS_AT_ONCE != 0
        self.fc1 = Dense(*fold_norm(block.norm, fc1.weight, fc1.bias), dtype, bias_in_product=bias_in_product)
        self.grn = GRN(grn, precision)
        # GRN's bias is added to every cell alike, so it folds into the bias of fc2.
        weight = fc2.weight.double()
        self.fc2 = Dense(weight, fc2.bias.double() + weight @ grn.bias.double(), dtype)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """[B, H, W, C] to [B, H, W, C]."""
        hidden_BHWC = F.gelu(self.fc1(normalise(self.conv(x_BHWC), self.eps)))
        x_BNC, hidden_BNC = x_BHWC.flatten(1, 2), hidden_BHWC.flatten(1, 2)
        # The factor goes into the weights [C, D] where they are fewer than the map's values [N, C]: a GPU moves 165 MB
        # less for `tiny`, and ONNX Runtime takes 0.9 of the time for stage 1.
        cells, channels = x_BNC.shape[1:]
        in_weights = cells > channels and not self.constant_weights
        rows = 1 if not self.for_gpu else channels if in_weights else cells
        factor_BRC = self.grn(hidden_BHWC, rows).flatten(1, 2)
        factor_of_weights = factor_BRC if in_weights else None
        if not in_weights:
            hidden_BNC = hidden_BNC * factor_BRC.to(hidden_BNC.dtype)
        if self.for_gpu:
            return self.fc2(hidden_BNC, x_BNC, factor_of_weights).view_as(x_BHWC)
        return x_BHWC + self.fc2(hidden_BNC, None, factor_of_weights).view_as(x_BHWC)


class GRN(nn.Module):
    """The factor of Global Response Normalisation, without its bias: `1 + gamma rms / mean(rms)` for every channel.

    The ratio of L2 norms over the map equals the ratio of root mean squares, which stay in range where a float16 sum
    of squares over 19,200 cells overflows. The statistics are float32 (design 4.10).

    For a CPU rows are averaged before their averages are: ONNX Runtime shares a mean among threads over the axes in
    front of the averaged one, so that over all cells at once, with one image, it takes 13 ms for 19,200 x 384 values
    instead of 3. For a GPU that would be one kernel more.

    For a GPU the factor is repeated for every row that it multiplies. The compiler then takes the mean over channels
    in the kernel that multiplies, as it does in a LayerNorm, instead of in one of its own.
    """

    def __init__(self, grn: Any, precision: Precision) -> None:
        super().__init__()
        self.precision = precision
        self.eps = float(grn.eps)
        self.gamma = nn.Parameter(grn.weight.detach().to(precision.wide), requires_grad=False)

    def forward(self, x_BHWC: Tensor, rows: int = 1) -> Tensor:
        """[B, H, W, C] to [B, 1, rows, C], in the dtype of the islands.

        Args:
            x_BHWC: what is normalised.
            rows: how often the factor is repeated for a GPU; for a CPU it comes once.
        """
        cells = x_BHWC.shape[1] * x_BHWC.shape[2]
        wide = x_BHWC.to(self.precision.wide)
        # Not square(), which becomes Pow, at twice the time of Mul.
        squares = wide * wide
        if self.precision.for_gpu:
            root_cells_R1 = torch.full((rows, 1), cells**0.5, dtype=wide.dtype, device=wide.device)
            norm_B1RC = squares.mean(dim=(1, 2), keepdim=True).sqrt() * root_cells_R1
            return 1 + self.gamma * (norm_B1RC / (norm_B1RC.mean(dim=-1, keepdim=True) + self.eps))
        rms_B11C = squares.mean(dim=2, keepdim=True).mean(dim=1, keepdim=True).sqrt()
        # The literal eps is added to the mean of norms, which are sqrt(cells) times the root mean squares.
        response_B11C = rms_B11C / (rms_B11C.mean(dim=-1, keepdim=True) + self.eps / cells**0.5)
        return 1 + self.gamma * response_B11C
