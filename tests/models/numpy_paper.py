"""A second reading of the paper: plain numpy in float64, point by point, loop by loop."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from spd.models import SPD, Cache

Array = NDArray[np.float64]
erf = np.vectorize(math.erf, otypes=[np.float64])


class Paper:
    """Sections 4 to 6 over weights by name; a vector or the rows of a matrix at a time."""

    def __init__(self, model: SPD) -> None:
        self.config = model.config
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
        cells = self.self_attn("neck.l4_self_attn", l4.reshape(-1, l4.shape[2]), self.config.l4_heads)
        levels[3] = cells.reshape(l4.shape)
        return levels

    # Section 6.

    def tokens(self, cache: Cache, b: int, u: float, v: float) -> tuple[Array, Array]:
        """6.1: the seed and T_unified."""
        l1, l2, l3, l4 = (level[b].numpy() for level in cache.pyramid)
        f = bilinear(l1, u / 4, v / 4)
        octaves = [2.0**i for i in range(8)]
        pe = []
        for share in (u / cache.width, v / cache.height):
            angles = [2 * math.pi * octave * share for octave in octaves]
            pe += [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles]
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
        mixed, alpha = attend(self.linear(f"{name}.w_q", self.norm(f"{name}.ln_q", h)), k, v, self.config.heads)
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
