"""SPDConfig: the paper's widths, and refusal of those that make no network."""

from __future__ import annotations

import dataclasses
import json
from itertools import pairwise
from typing import Any

import pytest
import timm
import torch

from spd.config import PRESETS, STRIDES, WINDOW_SIDES, SPDConfig, check_size, preset_name


def test_tiny_is_the_paper() -> None:
    tiny = PRESETS["tiny"]
    assert tiny == SPDConfig()
    assert (tiny.backbone_channels, tiny.neck_channels) == ((96, 192, 384, 768), (64, 128, 192, 384))
    assert (tiny.d, tiny.heads, tiny.d_head, tiny.routed_tokens) == (192, 6, 32, 20)
    assert (tiny.b2_layers, tiny.b3_layers, tiny.b5_layers, tiny.self_attn_layers) == (2, 2, 3, 2)
    assert (tiny.learned_offsets, tiny.r_max, tiny.ffn_ratio, tiny.dropout) == (8, 6.0, 4, 0.1)
    assert tiny.backbone_channels[2] // tiny.l3_heads == tiny.neck_channels[3] // tiny.l4_heads == 64
    assert (STRIDES, WINDOW_SIDES) == ((4, 8, 16, 32), (5, 5, 5, 3))


@pytest.mark.parametrize("name", PRESETS)
def test_preset(name: str) -> None:
    config = PRESETS[name]
    # 24 fixed, 8 learned and the centre from L1; 25, 25 and 9 from L2..L4.
    assert config.local_tokens == 24 + 8 + 1 + 25 + 25 + 9 == 92
    # Fused attention kernels take heads of 16 to 256 numbers, multiples of 8.
    widths = (config.d_head, config.backbone_channels[2] // config.l3_heads, config.neck_channels[3] // config.l4_heads)
    assert all(16 <= width <= 256 and width % 8 == 0 for width in widths)
    assert preset_name(config) == name


@pytest.mark.parametrize("name", PRESETS)
def test_a_presets_backbone_is_timms_of_the_same_name(name: str) -> None:
    config = PRESETS[name]
    assert config.backbone == f"convnextv2_{name}"
    with torch.device("meta"):
        backbone = timm.create_model(config.backbone, pretrained=False, features_only=True)
    assert config.backbone_channels == tuple(backbone.feature_info.channels())
    assert tuple(backbone.feature_info.reduction()) == STRIDES


def test_presets_are_in_the_order_of_their_size() -> None:
    assert list(PRESETS) == ["atto", "femto", "pico", "nano", "tiny"]
    widths = [(*config.backbone_channels, config.d, *config.neck_channels) for config in PRESETS.values()]
    for smaller, larger in pairwise(widths):
        assert all(a <= b for a, b in zip(smaller, larger, strict=True))
        assert smaller[:4] < larger[:4]


@pytest.mark.parametrize("name", ["femto", "pico", "nano", "tiny"])
def test_presets_keep_the_proportions_of_the_paper(name: str) -> None:
    config = PRESETS[name]
    stage1, (l1, l2, l3, l4) = config.backbone_channels[0], config.neck_channels
    assert (config.d, l3, l4) == (2 * stage1, 2 * stage1, 4 * stage1)
    assert (config.heads, config.l3_heads, config.l4_heads) == (stage1 // 16,) * 3
    assert (config.d_head, config.backbone_channels[2] // config.l3_heads, l4 // config.l4_heads) == (32, 64, 64)
    assert l2 == 2 * l1
    assert l1 == pytest.approx(config.d / 3, abs=8)
    assert l1 % 16 == 0


def test_preset_name_of_another_network() -> None:
    assert preset_name(dataclasses.replace(SPDConfig(), b5_layers=2)) is None
    assert preset_name(dataclasses.replace(SPDConfig(), dropout=0.0)) == "tiny"


@pytest.mark.parametrize("config", [*PRESETS.values(), SPDConfig(b5_layers=1, dropout=0.0)])
def test_round_trip(config: SPDConfig) -> None:
    values = config.as_dict()
    assert set(values) == {field.name for field in dataclasses.fields(SPDConfig)}
    back = SPDConfig.from_dict(json.loads(json.dumps(values)))
    assert back.as_dict() == values
    assert back == config
    assert hash(back) == hash(config)


def test_missing_settings_are_the_papers() -> None:
    assert SPDConfig.from_dict({}) == PRESETS["tiny"]


def test_config_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        SPDConfig().d = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"heads": 7}, "d = 192 cannot be split into 7 heads"),
        ({"heads": 0}, "heads is 0: expected a whole number from 1 to 4096"),
        ({"l3_heads": 5}, "backbone_channels[2] = 384 cannot be split into 5 heads"),
        ({"l4_heads": -6}, "l4_heads is -6: expected a whole number from 1"),
        ({"neck_channels": [64, 128, 96, 384]}, "neck_channels[2] = 96 must equal d = 192"),
        ({"neck_channels": [64, 128, 192]}, "neck_channels is [64, 128, 192]: expected 4 widths"),
        ({"backbone_channels": [96, 0, 384, 768]}, "backbone_channels is 0: expected a whole number"),
        ({"backbone_channels": [96, 192.0, 384, 768]}, "backbone_channels is 192.0: expected a whole number"),
        ({"heads": True}, "heads is True: expected a whole number"),
        ({"routed_tokens": -1}, "routed_tokens is -1"),
        ({"b5_layers": 10**9}, "b5_layers is 1000000000: expected a whole number from 1 to 64"),
        ({"ffn_ratio": 0}, "ffn_ratio is 0"),
        ({"r_max": 0}, "r_max is 0: expected a positive number"),
        ({"r_max": float("nan")}, "r_max is nan"),
        ({"r_max": "2"}, "r_max is '2'"),
        ({"dropout": 3.0}, "dropout is 3.0: expected 0 <= dropout < 1"),
        ({"dropout": float("nan")}, "dropout is nan"),
        ({"backbone": "hf-hub:a/b"}, "backbone is 'hf-hub:a/b': expected a ConvNeXt V2 of timm"),
        ({"b4_layers": 2, "a": 1}, "unknown model settings a, b4_layers"),
    ],
)
def test_refused_settings(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is compared below
        SPDConfig.from_dict(values)
    assert message in str(caught.value)


@pytest.mark.parametrize("values", [{"d": "192"}, {"heads": None}, {"neck_channels": 4}, {"neck_channels": "abcd"}])
def test_refused_types(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - any text
        SPDConfig.from_dict(values)


@pytest.mark.parametrize(("height", "width"), [(480, 640), (256, 320), (128, 160), (32, 640), (640, 32)])
def test_sizes_that_fit(height: int, width: int) -> None:
    check_size(height, width, SPDConfig())
    assert (height // 32) * (width // 32) >= SPDConfig().routed_tokens


@pytest.mark.parametrize("size", [(480, 650), (481, 640), (0, 640), (-32, -640), (16, 640)])
def test_sizes_off_the_stride(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="multiples of 32"):
        check_size(*size, SPDConfig())


def test_size_with_too_few_tokens_to_route() -> None:
    with pytest.raises(ValueError, match="19 L4 tokens, but B3b routes 20"):
        check_size(32, 19 * 32, SPDConfig())
    check_size(32, 19 * 32, SPDConfig(routed_tokens=19))
