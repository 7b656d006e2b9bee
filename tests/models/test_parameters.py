"""The paper's parameter table (its section 9), block by block, from formulas read off its pages."""

# ruff: noqa: T201 - `pytest -s` shows the table

from __future__ import annotations

from functools import cache
from itertools import pairwise

import pytest
import torch
from torch import nn

from spd.config import PRESETS, SPDConfig
from spd.models import SPD

TINY = PRESETS["tiny"]
DEPTHS = {"atto": (2, 2, 6, 2), "femto": (2, 2, 6, 2), "pico": (2, 2, 6, 2), "nano": (2, 2, 8, 2), "tiny": (3, 3, 9, 3)}
"""Blocks of the stages of ConvNeXt V2, as its paper has them."""


def linear(inputs: int, outputs: int) -> int:
    """Also a 1x1 convolution."""
    return inputs * outputs + outputs


def norm(width: int) -> int:
    return 2 * width


def ffn(width: int) -> int:
    return linear(width, 4 * width) + linear(4 * width, width)


def backbone(stages: tuple[int, ...], depths: tuple[int, ...]) -> int:
    """Section 3: stem k4, per block depthwise k7, LN, 4x expansion, GRN, contraction; LN and conv k2 between stages."""
    total = linear(4 * 4 * 3, stages[0]) + norm(stages[0])
    for width, depth in zip(stages, depths, strict=True):
        block = (7 * 7 * width + width) + norm(width) + linear(width, 4 * width) + 2 * 4 * width
        total += depth * (block + linear(4 * width, width))
    for width, wider in pairwise(stages):
        total += norm(width) + linear(4 * width, wider)
    return total


def self_attention(width: int) -> int:
    """Sections 4.1 and 4.3: two Pre-LN layers."""
    return 2 * (4 * linear(width, width) + ffn(width) + 2 * norm(width))


def global_attention(d: int) -> int:
    """Sections 6.3a and 6.3b: two layers of W_Q, W_O and FFN with LN_q and LN; K and V belong to the pre-compute."""
    return 2 * (2 * linear(d, d) + ffn(d) + 2 * norm(d))


def token_attention(d: int, layers: int) -> int:
    """Sections 6.2 and 6.5: W_Q, W_K, W_V, W_O and FFN with LN_q and LN_ff per layer, and one LN_kv."""
    return layers * (4 * linear(d, d) + ffn(d) + 2 * norm(d)) + norm(d)


def formulas(config: SPDConfig, depths: tuple[int, ...]) -> dict[str, int]:
    """Parameters by block."""
    stages, neck, d = config.backbone_channels, config.neck_channels, config.d
    return {
        "encoder.backbone": backbone(stages, depths),
        "neck.projections": sum(linear(c, n) + norm(n) for c, n in zip(stages, neck, strict=True)),
        "encoder.l3_self_attn": self_attention(stages[2]),
        "neck.l4_self_attn": self_attention(neck[3]),
        # 5.1 and 5.1b K and V of two layers, 5.2 W_g, all without bias; 5.3 convolutions.
        "precompute": 4 * neck[3] * d + 4 * neck[2] * d + neck[3] * d + sum(linear(c, d) for c in neck[1:]),
        # 6.1: 8 learned offsets (x, y), W_loc on L1 and 16, W_q on L1 and 32, W_v2, W_v4, 4 level embeddings, 25 RPE.
        "b1": linear(neck[0], 16)
        + linear(neck[0] + 16, d)
        + linear(neck[0] + 32, d)
        + (neck[1] + neck[3]) * d
        + 4 * d
        + 25 * d,
        "b2": token_attention(d, 2),
        "b3a": global_attention(d),
        "b3b": global_attention(d),
        # 6.5: 3 layers, the head d -> 2 d -> 1, 4 type embeddings.
        "b5": token_attention(d, 3) + linear(d, 2 * d) + linear(2 * d, 1) + 4 * d,
    }


PAPER = {
    "encoder.backbone": 27_864_960,
    "neck.projections": 401_664,
    "encoder.l3_self_attn": 3_548_928,
    "neck.l4_self_attn": 3_548_928,
    "precompute": 651_840,
    "b1": 139_088,
    "b2": 890_112,
    "b3a": 741_504,
    "b3b": 741_504,
    "b5": 1_410_241,
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


@cache
def blank(preset: str) -> SPD:
    """Without memory for its weights."""
    with torch.device("meta"):
        return SPD(PRESETS[preset])


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_table() -> None:
    tiny, expected = blank("tiny"), formulas(TINY, DEPTHS["tiny"])
    print()
    for name, known in PAPER.items():
        got = count(tiny.get_submodule(name))
        print(f"{name:<22}{got:>12,}{known:>12,}")
        assert got == expected[name] == known, name
    print(f"{'total':<22}{count(tiny):>12,}{TOTAL:>12,}")
    assert count(tiny) == sum(expected.values()) == TOTAL


@pytest.mark.parametrize("preset", [name for name in PRESETS if name != "tiny"])
def test_other_presets_follow_the_same_formulas(preset: str) -> None:
    network, expected = blank(preset), formulas(PRESETS[preset], DEPTHS[preset])
    assert {name: count(network.get_submodule(name)) for name in PAPER} == expected
    assert count(network) == sum(expected.values())


def test_table_names_every_parameter() -> None:
    for name, _ in blank("tiny").named_parameters():
        assert sum(name.startswith(block + ".") for block in PAPER) == 1, name


def test_close_to_the_printed_table() -> None:
    for name, thousands in ROUNDED.items():
        assert PAPER[name] == pytest.approx(1000 * thousands, rel=0.025), name
