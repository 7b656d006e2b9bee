"""The paper's parameter table (its section 9), block by block, from formulas read off its pages."""

# ruff: noqa: T201 - `pytest -s` shows the table

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from spd.config import PRESETS
from spd.models import SPD

D = 192
STAGES = (96, 192, 384, 768)
NECK = (64, 128, 192, 384)
DEPTHS = (3, 3, 9, 3)


def linear(inputs: int, outputs: int) -> int:
    """Also a 1x1 convolution."""
    return inputs * outputs + outputs


def norm(width: int) -> int:
    return 2 * width


def ffn(width: int) -> int:
    return linear(width, 4 * width) + linear(4 * width, width)


def backbone() -> int:
    """Section 3: stem k4, per block depthwise k7, LN, 4x expansion, GRN, contraction; LN and conv k2 between stages."""
    total = linear(4 * 4 * 3, STAGES[0]) + norm(STAGES[0])
    for width, depth in zip(STAGES, DEPTHS, strict=True):
        block = (7 * 7 * width + width) + norm(width) + linear(width, 4 * width) + 2 * 4 * width
        total += depth * (block + linear(4 * width, width))
    for width, wider in pairwise(STAGES):
        total += norm(width) + linear(4 * width, wider)
    return total


def self_attention(width: int) -> int:
    """Sections 4.1 and 4.3: two Pre-LN layers."""
    return 2 * (4 * linear(width, width) + ffn(width) + 2 * norm(width))


def global_attention() -> int:
    """Sections 6.3a and 6.3b: two layers of W_Q, W_O and FFN with LN_q and LN; K and V belong to the pre-compute."""
    return 2 * (2 * linear(D, D) + ffn(D) + 2 * norm(D))


def token_attention(layers: int) -> int:
    """Sections 6.2 and 6.5: W_Q, W_K, W_V, W_O and FFN with LN_q and LN_ff per layer, and one LN_kv."""
    return layers * (4 * linear(D, D) + ffn(D) + 2 * norm(D)) + norm(D)


PAPER = {
    "encoder.backbone": (backbone(), 27_864_960),
    "neck.projections": (sum(linear(c, n) + norm(n) for c, n in zip(STAGES, NECK, strict=True)), 401_664),
    "encoder.l3_self_attn": (self_attention(STAGES[2]), 3_548_928),
    "neck.l4_self_attn": (self_attention(NECK[3]), 3_548_928),
    # 5.1 and 5.1b K and V of two layers, 5.2 W_g, all without bias; 5.3 convolutions.
    "precompute": (4 * NECK[3] * D + 4 * NECK[2] * D + NECK[3] * D + sum(linear(c, D) for c in NECK[1:]), 651_840),
    # 6.1: 8 learned offsets (x, y), W_loc on 64 + 16, W_q on 64 + 32, W_v2, W_v4, 4 level embeddings, 25 RPE.
    "b1": (linear(64, 16) + linear(80, D) + linear(96, D) + 128 * D + 384 * D + 4 * D + 25 * D, 139_088),
    "b2": (token_attention(2), 890_112),
    "b3a": (global_attention(), 741_504),
    "b3b": (global_attention(), 741_504),
    # 6.5: 3 layers, the head 192 -> 384 -> 1, 4 type embeddings.
    "b5": (token_attention(3) + linear(D, 2 * D) + linear(2 * D, 1) + 4 * D, 1_410_241),
}
TOTAL = 39_938_769

ROUNDED = {
    "encoder.l3_self_attn": 3542,
    "neck.l4_self_attn": 3542,
    "neck.projections": 401,
    "precompute": 654,
    "b1": 142,
    "b2": 891,
    "b3a": 740,
    "b3b": 740,
    "b5": 1431,
}
"""Thousands as the paper prints them, rounded part by part; the backbone's 28,600 counts the ImageNet head."""


@pytest.fixture(scope="module")
def tiny() -> SPD:
    with torch.device("meta"):
        return SPD(PRESETS["tiny"])


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_table(tiny: SPD) -> None:
    print()
    for name, (formula, known) in PAPER.items():
        got = count(tiny.get_submodule(name))
        print(f"{name:<22}{got:>12,}{formula:>12,}")
        assert got == formula == known, name
    print(f"{'total':<22}{count(tiny):>12,}{sum(formula for formula, _ in PAPER.values()):>12,}")
    assert count(tiny) == sum(formula for formula, _ in PAPER.values()) == TOTAL


def test_table_names_every_parameter(tiny: SPD) -> None:
    for name, _ in tiny.named_parameters():
        assert sum(name.startswith(block + ".") for block in PAPER) == 1, name


def test_close_to_the_printed_table() -> None:
    for name, thousands in ROUNDED.items():
        assert PAPER[name][0] == pytest.approx(1000 * thousands, rel=0.025), name
