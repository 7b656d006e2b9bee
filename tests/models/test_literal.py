"""The network against a second reading of the paper: plain numpy in float64, point by point, loop by loop."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from spd.config import PRESETS
from spd.models import SPD, Cache, seeded

Array = NDArray[np.float64]
ATTO = PRESETS["atto"]
H, W = 160, 192  # 30 L4 tokens, of which B3b routes 20
erf = np.vectorize(math.erf, otypes=[np.float64])


class Paper:
    """Sections 4 to 6 over weights by name; a vector or the rows of a matrix at a time."""

    def __init__(self, model: SPD) -> None:
        self.w = {name: tensor.numpy() for name, tensor in model.state_dict().items()}

    def linear(self, name: str, x: Array) -> Array:
        weight = self.w[f"{name}.weight"]
        y = x @ weight.reshape(len(weight), -1).T
        return y + self.w[f"{name}.bias"] if f"{name}.bias" in self.w else y

    def norm(self, name: str, x: Array) -> Array:
        mean = x.mean(-1, keepdims=True)
        variance = ((x - mean) ** 2).mean(-1, keepdims=True)
        return (x - mean) / np.sqrt(variance + 1e-5) * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def ffn(self, name: str, x: Array) -> Array:
        return self.linear(f"{name}.3", gelu(self.linear(f"{name}.0", x)))

    # Section 4.

    def self_attn(self, name: str, x: Array, heads: int) -> Array:
        for layer in (f"{name}.0", f"{name}.1"):
            q, k, v = np.split(self.linear(f"{layer}.w_qkv", self.norm(f"{layer}.ln", x)), 3, axis=1)
            mixed = np.stack([attend(q[i], k, v, heads)[0] for i in range(len(x))])
            x = x + self.linear(f"{layer}.w_o", mixed)
            x = x + self.ffn(f"{layer}.ffn", self.norm(f"{layer}.ln_ff", x))
        return x

    def pyramid(self, stages: list[Array]) -> list[Array]:
        """Levels [H, W, C] of the neck from the stages [H, W, C]."""
        levels = []
        for i, stage in enumerate(stages):
            name = f"neck.projections.{i}"
            levels.append(self.norm(f"{name}.ln", self.linear(f"{name}.conv", stage)))
        l4 = levels[3]
        levels[3] = self.self_attn("neck.l4_self_attn", l4.reshape(-1, l4.shape[2]), ATTO.l4_heads).reshape(l4.shape)
        return levels

    # Section 6.

    def tokens(self, cache: Cache, b: int, u: float, v: float) -> tuple[Array, Array]:
        """6.1: the seed and T_unified."""
        l1, l2, l3, l4 = (level[b].numpy() for level in cache.pyramid)
        f = bilinear(l1, u / 4, v / 4)
        octaves = [2.0**i for i in range(8)]
        pe = [math.sin(2 * math.pi * s * u / W) for s in octaves] + [math.cos(2 * math.pi * s * u / W) for s in octaves]
        pe += [math.sin(2 * math.pi * s * v / H) for s in octaves] + [
            math.cos(2 * math.pi * s * v / H) for s in octaves
        ]
        seed = self.linear("b1.w_q", np.array([*f, *pe]))

        around = [(dx, dy) for dy in (-2, -1, 0, 1, 2) for dx in (-2, -1, 0, 1, 2)]
        learned = 6 * np.tanh(self.linear("b1.w_off", f)).reshape(8, 2)
        offsets = [*(o for o in around if o != (0, 0)), *learned, (0, 0)]
        e = self.w["b1.e_level"]
        tokens = []
        for dx, dy in offsets:
            sample = bilinear(l1, u / 4 + dx, v / 4 + dy)
            tokens.append(gelu(self.linear("b1.w_loc", np.array([*sample, *phi(dx), *phi(dy)]))) + e[0])
        for i, (dx, dy) in enumerate(around):
            sample = bilinear(l2, u / 8 + dx, v / 8 + dy)
            tokens.append(self.linear("b1.w_v2", sample) + e[1] + self.w["b1.rpe"][i])
        for i, (dx, dy) in enumerate(around):
            tokens.append(bilinear(l3, u / 16 + dx, v / 16 + dy) + e[2] + self.w["b1.rpe"][i])
        for i, (dx, dy) in enumerate(around):
            if max(abs(dx), abs(dy)) <= 1:
                sample = bilinear(l4, u / 32 + dx, v / 32 + dy)
                tokens.append(self.linear("b1.w_v4", sample) + e[3] + self.w["b1.rpe"][i])
        return seed, np.stack(tokens)

    def decoder_layer(self, name: str, h: Array, k: Array, v: Array) -> tuple[Array, Array]:
        """6.2 to 6.5: one Pre-LN layer, and its head-averaged attention."""
        mixed, alpha = attend(self.linear(f"{name}.w_q", self.norm(f"{name}.ln_q", h)), k, v, ATTO.heads)
        h = h + self.linear(f"{name}.w_o", mixed)
        return h + self.ffn(f"{name}.ffn", self.norm(f"{name}.ln_ff", h)), alpha

    def token_layers(self, block: str, count: int, h: Array, tokens: Array) -> Array:
        for i in range(count):
            name = f"{block}.layers.{i}"
            h, _ = self.decoder_layer(name, h, self.linear(f"{name}.w_k", tokens), self.linear(f"{name}.w_v", tokens))
        return h

    def depth(self, cache: Cache, b: int, u: float, v: float) -> tuple[float, set[int]]:
        """Section 6: metres at one point, and R_q."""
        h, tokens = self.tokens(cache, b, u, v)
        h = self.token_layers("b2", 2, h, self.norm("b2.ln_kv", tokens))
        for i, (k, values) in enumerate(cache.l3_kv):
            h, _ = self.decoder_layer(f"b3a.layers.{i}", h, k[b].numpy(), values[b].numpy())
        for i, (k, values) in enumerate(cache.l4_kv):
            h, alpha = self.decoder_layer(f"b3b.layers.{i}", h, k[b].numpy(), values[b].numpy())
        routes = sorted(range(len(alpha)), key=lambda r: -alpha[r])[:20]
        fused = [
            bilinear(hat[b].numpy(), u / stride, v / stride) + self.w["b5.e_central"][i]
            for i, (hat, stride) in enumerate(zip(cache.central, (8, 16, 32), strict=True))
        ]
        fused += [cache.g[b, r].numpy() + self.w["b5.e_g"] for r in routes]
        h = self.token_layers("b5", 3, h, self.norm("b5.ln_kv2", np.stack(fused)))
        log_depth = self.linear("b5.w_r2", gelu(self.linear("b5.w_r1", h)))
        return math.exp(log_depth[0]), set(routes)


def gelu(x: Array) -> Array:
    return np.asarray(x * 0.5 * (1 + erf(x / math.sqrt(2))))


def phi(delta: float) -> list[float]:
    """The offset encoding of one axis: 4 octaves of sin, then of cos."""
    angles = [math.pi * 2**i * delta / 6 for i in range(4)]
    return [math.sin(a) for a in angles] + [math.cos(a) for a in angles]


def bilinear(level: Array, x: float, y: float) -> Array:
    """Sample of [C, H, W] at (x, y) in cells whose centres are at i + 0.5; cells outside are zero."""
    _, height, width = level.shape
    left, top = math.floor(x - 0.5), math.floor(y - 0.5)
    total = np.zeros(len(level))
    for row in (top, top + 1):
        for column in (left, left + 1):
            if 0 <= row < height and 0 <= column < width:
                total += (1 - abs(x - 0.5 - column)) * (1 - abs(y - 0.5 - row)) * level[:, row, column]
    return total


def attend(q: Array, k: Array, v: Array, heads: int) -> tuple[Array, Array]:
    """Multi-head attention of one query: the heads side by side, and their average weights."""
    width = len(q) // heads
    mixed, alphas = [], []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        scores = k[:, part] @ q[part] / math.sqrt(width)
        weights = np.exp(scores - scores.max())
        alphas.append(weights / weights.sum())
        mixed.append(alphas[-1] @ v[:, part])
    return np.concatenate(mixed), np.mean(alphas, axis=0)


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
