"""The network against a second reading of the paper."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy_paper import Array, Paper
from torch import Tensor

from spd.config import PRESETS
from spd.models import SPD, Cache, seeded

ATTO = PRESETS["atto"]
H, W = 160, 192  # 30 L4 tokens, of which B3b routes 20


@pytest.fixture(scope="module")
def model() -> SPD:
    return seeded(ATTO).double()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(2, 3, H, W, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def cache(model: SPD, images: Tensor) -> Cache:
    with torch.no_grad():
        return model.encode(images)


@pytest.fixture(scope="module")
def points() -> Tensor:
    """Inside, on corners and borders, on cell edges and centres, outside, far outside, twice the same: [2, K, 2]."""
    fixed = [(0, 0), (W, 0), (0, H), (W, H), (W - 1, H - 1), (0.5, 77.3), (W, 64), (40, 32), (48, 16), (2, 2)]
    outside = [(-0.01, 5), (W + 3, 70), (30, -9), (55, H + 40), (-700, 4000)]
    inside = torch.rand(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) * torch.tensor([W, H])
    first = torch.cat([torch.tensor(fixed + outside, dtype=torch.float64), inside, inside[:1]])
    return torch.stack([first, first.flip(0) * 0.97 + 1])


@pytest.fixture(scope="module")
def decoded(model: SPD, cache: Cache, points: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        return model.decode(cache, points)


def channels_last(feature_map: Tensor) -> Array:
    """[C, H, W] to numpy [H, W, C]."""
    return np.moveaxis(feature_map.numpy(), 0, -1)


def assert_close(got: Any, expected: Any) -> None:
    """To 1e-9 of the largest number."""
    got, expected = np.asarray(got), np.asarray(expected)
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= 1e-9 * np.abs(expected).max()


def test_decoder(model: SPD, cache: Cache, points: Tensor, decoded: tuple[Tensor, Tensor]) -> None:
    paper = Paper(model)
    depth, routes = decoded
    assert depth.shape == points.shape[:2]
    for b, k in np.ndindex(*depth.shape):
        expected, expected_routes = paper.depth(cache, b, *points[b, k].tolist())
        assert depth[b, k].item() == pytest.approx(expected, rel=1e-9), points[b, k]
        assert set(routes[b, k].tolist()) == expected_routes, points[b, k]
    assert_close(depth[0, -1], depth[0, 15])  # the same point twice
    assert depth.std() > 1e-3, "weights that ignore the points would prove nothing"


def test_tokens(model: SPD, cache: Cache, points: Tensor) -> None:
    with torch.no_grad():
        seed, tokens = model.b1(cache, points)
    assert tokens.shape == (*points.shape[:2], ATTO.local_tokens, ATTO.d)
    for k in (0, 3, 12, 17):
        expected_seed, expected = Paper(model).tokens(cache, 1, *points[1, k].tolist())
        assert_close(seed[1, k], expected_seed)
        assert_close(tokens[1, k], expected)


def encoder_parts(model: SPD, images: Tensor) -> dict[str, Tensor]:
    """What enters and leaves the parts of the encoder while it runs."""
    parts: dict[str, Tensor] = {}

    def watch(name: str) -> Any:
        def hook(_: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            parts[f"{name} in"], parts[f"{name} out"] = inputs[0], output

        return hook

    names = ("stem_0", "stages_0", "stages_1", "stages_2", "stages_3")
    handles = [model.encoder.backbone[name].register_forward_hook(watch(name)) for name in names]
    with torch.no_grad():
        model.encode(images)
    for handle in handles:
        handle.remove()
    return parts


def test_encoder(model: SPD, images: Tensor, cache: Cache) -> None:
    paper = Paper(model)
    parts = encoder_parts(model, images)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    b = 1
    assert_close(channels_last(parts["stem_0 in"][b]), (channels_last(images[b]) - mean) / std)

    stage3 = channels_last(parts["stages_2 out"][b])
    enhanced = paper.self_attn("encoder.l3_self_attn", stage3.reshape(-1, stage3.shape[2]), ATTO.l3_heads)
    enhanced = enhanced.reshape(stage3.shape)
    assert_close(channels_last(parts["stages_3 in"][b]), enhanced)

    stages = [channels_last(parts[f"stages_{i} out"][b]) for i in range(4)]
    levels = paper.pyramid([*stages[:2], enhanced, stages[3]])
    for level, expected, stride in zip(cache.pyramid, levels, (4, 8, 16, 32), strict=True):
        assert level.shape[2:] == (H // stride, W // stride)
        assert_close(channels_last(level[b]), expected)

    flat = [level.reshape(-1, level.shape[2]) for level in levels]
    for name, kv, tokens in (("l3_kv", cache.l3_kv, flat[2]), ("l4_kv", cache.l4_kv, flat[3])):
        for i, (k, v) in enumerate(kv):
            assert_close(k[b], paper.linear(f"precompute.{name}.{i}.w_k", tokens))
            assert_close(v[b], paper.linear(f"precompute.{name}.{i}.w_v", tokens))
    assert_close(cache.g[b], paper.linear("precompute.w_g", flat[3]))
    for i, hat in enumerate(cache.central):
        assert_close(channels_last(hat[b]), paper.linear(f"precompute.central.{i}", levels[i + 1]))


def test_split_backbone_is_timms(images: Tensor) -> None:
    model = seeded(ATTO).double()
    with torch.no_grad():
        plain = model.encoder.backbone(images)
        for layer in model.encoder.l3_self_attn:
            for silenced in (layer.w_o, layer.ffn[3]):
                silenced.weight.zero_()
                silenced.bias.zero_()
        for got, expected in zip(model.encoder(images), plain, strict=True):
            assert_close(got, expected)


def test_stage_4_sees_l3_self_attention(images: Tensor) -> None:
    model = seeded(ATTO).double()
    with torch.no_grad():
        before = model.encoder(images)
        model.encoder.l3_self_attn[0].w_o.weight[0, 0] += 0.5
        after = model.encoder(images)
    assert [torch.equal(x, y) for x, y in zip(before, after, strict=True)] == [True, True, False, False]


def test_order_of_points_and_of_images(
    model: SPD, images: Tensor, points: Tensor, decoded: tuple[Tensor, Tensor]
) -> None:
    order = torch.randperm(points.shape[1], generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        assert_close(model(images, points[:, order]), decoded[0][:, order])
        for b in range(2):
            assert_close(model(images[b : b + 1], points[b : b + 1])[0], decoded[0][b])
        assert model(images, points[:, :0]).shape == (2, 0)


def test_image_size_is_checked(model: SPD) -> None:
    with pytest.raises(ValueError, match="multiples of 32"):
        model.encode(torch.zeros(1, 3, 120, 160, dtype=torch.float64))


def test_dropout_only_while_training(images: Tensor, points: Tensor) -> None:
    model = seeded(ATTO).double()
    with torch.no_grad():
        reference = model(images, points)
        assert torch.equal(model(images, points), reference)
        model.train()
        assert not torch.equal(model(images, points), model(images, points))
        without = SPD(replace(ATTO, dropout=0.0)).double().train()
        without.load_state_dict(model.state_dict())
        assert_close(without(images, points), reference)


def test_gradients_reach_every_parameter(images: Tensor, points: Tensor) -> None:
    model = seeded(ATTO).double().train()
    model(images, points).log().square().mean().backward()  # type: ignore[no-untyped-call]
    sizes = {name: p.grad.abs().max().item() for name, p in model.named_parameters() if p.grad is not None}
    assert len(sizes) == len(list(model.parameters()))
    # A bias of keys adds the same to all scores of a query, which softmax ignores.
    key_biases = {name for name in sizes if name.endswith("w_k.bias")}
    assert len(key_biases) == ATTO.b2_layers + ATTO.b5_layers
    for name, size in sizes.items():
        assert (size < 1e-12) if name in key_biases else (size > 1e-9), (name, size)


def test_initial_state() -> None:
    model = SPD(ATTO)
    assert model.b5.w_r2.bias.item() == pytest.approx(math.log(2.5))
    assert not model.b5.e_central.any()
    assert not model.b5.e_g.any()


def test_seeded_is_repeatable_and_alive(images: Tensor) -> None:
    state = torch.get_rng_state()
    first, second, other = seeded(ATTO), seeded(ATTO), seeded(ATTO, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert not first.training
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
        assert not torch.equal(tensor, other.state_dict()[name]), name
        assert tensor.count_nonzero() > 0.99 * tensor.numel(), name
