"""Layers of the deployment form: folded weights, no dropout, the dtype of every tensor explicit (design 4, 5).

Each layer takes the literal layer and folds it in float64, then rounds once to the graph's dtype.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Precision:
    """The dtypes of one graph, and what computes it (design 5)."""

    graph: torch.dtype
    """Of bulk arithmetic."""
    wide: torch.dtype
    """Of the float32 islands."""
    for_gpu: bool = False
    """A GPU is short of kernels and of bytes moved, a CPU of multiply-accumulates: two forms of the same function."""
    constant_weights: bool = False
    """No weight is computed per image. Only products with constant weights can be quantised."""

    @classmethod
    def of(cls, dtype: torch.dtype, *, for_gpu: bool | None = None, constant_weights: bool = False) -> Precision:
        """float16 and bfloat16 graphs have float32 islands; float32 and float64 graphs are uniform.

        By default the first two are for GPUs, the others for CPUs.
        """
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        for_gpu = dtype in (torch.float16, torch.bfloat16) if for_gpu is None else for_gpu
        return cls(dtype, wide, for_gpu, constant_weights)


class Dense(nn.Module):
    """`x W + b` with W stored [in, out], as ONNX MatMul reads it, and b [1, out].

    If b were a vector, ONNX Runtime would fuse its addition and a following GELU into BiasGelu. That takes 1.06 times
    as long as the two in the encoder of `tiny`.

    With `bias_in_product` the bias is the last row of W, behind a column of ones. ONNX Runtime then passes over x once
    more, but over the result once less. That pays where the result is wider.
    """

    def __init__(
        self, weight_oi: Tensor, bias_o: Tensor | None, dtype: torch.dtype, *, bias_in_product: bool = False
    ) -> None:
        super().__init__()
        self.bias_in_product = bias_in_product
        if bias_in_product:
            assert bias_o is not None
            weight_oi, bias_o = torch.cat([weight_oi.double(), bias_o.double()[:, None]], dim=1), None
        self.weight = _constant(weight_oi.detach().double().T.contiguous(), dtype)
        self.bias = None if bias_o is None else _constant(bias_o.detach().double()[None], dtype)

    def forward(self, x: Tensor, onto: Tensor | None = None, factor_BOI: Tensor | None = None) -> Tensor:
        """[..., in] to [..., out], computed in the dtype of the weights.

        Args:
            x: [B, N, in] with a factor, or else of any shape.
            onto: [..., out], is added to the product before the bias is. In that order a GPU adds both in the kernel of
                the product, whoever else reads the sum.
            factor_BOI: multiplies the weights, for each image by itself.
        """
        weight: Tensor = self.weight
        if self.bias_in_product:
            x = F.pad(x, (0, 1), value=1.0)
        if factor_BOI is not None:
            weight = (factor_BOI.to(weight.dtype) * weight.T).transpose(1, 2)
        y = x.to(weight.dtype) @ weight
        if onto is not None:
            y = onto + y
        return y if self.bias is None else y + self.bias


def normalise(x: Tensor, eps: float) -> Tensor:
    """LayerNorm without its affine part, which is folded into the next layer; statistics are float32."""
    return F.layer_norm(x, x.shape[-1:], eps=eps)


def scaled(x: Tensor, eps: float, wide: torch.dtype) -> Tensor:
    """LayerNorm without its mean and its affine part: x over its standard deviation, the statistics in `wide`.

    A linear map that ignores a constant added to all channels (`centred`) gives of it what it gives of `normalise`.
    """
    return x / statistics(x, eps, wide)[1].to(x.dtype)


def without_affine(x: Tensor, eps: float, precision: Precision) -> Tensor:
    """What a form hands to `centred` maps that a LayerNorm's affine part is folded into: `scaled` or `normalise`."""
    return scaled(x, eps, precision.wide) if precision.for_gpu else normalise(x, eps)


def statistics(x: Tensor, eps: float, wide: torch.dtype) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of LayerNorm over the channels of x [..., C], both [..., 1] in `wide`."""
    values = x.to(wide)
    mean = values.mean(dim=-1, keepdim=True)
    away = values - mean  # the mean of squares less the square of the mean cancels where the mean is large
    return mean, ((away * away).mean(dim=-1, keepdim=True) + eps).sqrt()


def centred(weight_oi: Tensor) -> Tensor:
    """The weights [out, in, ...] of a linear map that ignores the mean of its input, and else is the same."""
    return weight_oi - weight_oi.mean(dim=1, keepdim=True)


def fold_norm(ln: nn.LayerNorm, weight_oi: Tensor, bias_o: Tensor | None) -> tuple[Tensor, Tensor]:
    """`W (g x + b) + c` as one linear map of x: the affine part of a LayerNorm goes into the next map.

    Returns:
        Weight [out, in] and bias [out], float64.
    """
    weight, gain, shift = weight_oi.double(), ln.weight.double(), ln.bias.double()
    bias = weight @ shift
    return weight * gain, bias if bias_o is None else bias + bias_o.double()


class FeedForward(nn.Module):
    """`x + W2 GELU(W1 LN(x))`, the second half of every Pre-LN layer."""

    def __init__(self, ln: nn.LayerNorm, ffn: nn.Sequential, dtype: torch.dtype) -> None:
        super().__init__()
        first, second = ffn[0], ffn[-1]
        assert isinstance(first, nn.Linear)
        assert isinstance(second, nn.Linear)
        self.eps = ln.eps
        self.fc1 = Dense(*fold_norm(ln, first.weight, first.bias), dtype)
        self.fc2 = Dense(second.weight, second.bias, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] to [..., C]."""
        return x + self.fc2(F.gelu(self.fc1(normalise(x, self.eps))))


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention [..., Q, D], [..., N, D], [..., N, E] to [..., Q, E]; the scale is already in q.

    MatMul, Softmax, MatMul with nothing between: the pattern that TensorRT and ONNX Runtime turn into one kernel.
    """
    return (q @ k.transpose(-1, -2)).softmax(dim=-1) @ v


def _constant(value: Tensor, dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(value.to(dtype), requires_grad=False)
