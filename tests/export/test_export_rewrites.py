"""The exact rewrites of the deployed form, each against the literal form in float64, and all of them together."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from export_support import ATTO, EXACT, EXACT_GPU, FORMS, HEIGHT, WIDTH, literal64, random64, relative
from torch import Tensor, nn

from export.decoder import DeployedDecoder, GlobalCrossAttn, QueryEncoder, TokenCrossAttn, TokenCrossAttnFolded
from export.encoder import DeployedEncoder, Normalisation, SelfAttention, input_layers, ringed
from export.layers import Dense, FeedForward, Precision, centred, fold_norm, normalise, scaled
from export.stages import GRN, Block, Stage
from export.windows import Windows
from spd.bundle.contract import cache_tensors
from spd.bundle.gate import check_points
from spd.models import SPD, Cache
from spd.models.attention import CrossAttnLayer, TokenCrossAttnLayer, merge_heads
from spd.models.sampling import bilinear, window_offsets
from spd.preprocess import PAD_COLOUR

MODEL = literal64
TOLERANCE = 1e-9
IMAGES, POINTS = 2, 60


@pytest.fixture(scope="module")
def image() -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (IMAGES, HEIGHT, WIDTH, 3), generator=generator, dtype=torch.uint8)


@pytest.fixture(scope="module")
def points() -> Tensor:
    """Centre, corners, borders, cell boundaries, outside near and far, duplicates, random; float64 [2, 60, 2]."""
    return torch.from_numpy(np.stack([check_points(HEIGHT, WIDTH, POINTS, seed) for seed in range(IMAGES)])).double()


@pytest.fixture(scope="module")
def cache(image: Tensor) -> Cache:
    return MODEL().encode(image.permute(0, 3, 1, 2).double() / 255)


@pytest.fixture(scope="module", params=FORMS)
def form(request: pytest.FixtureRequest) -> Precision:
    form: Precision = request.param
    return form


@pytest.fixture(scope="module")
def deployed(image: Tensor, form: Precision) -> dict[str, Tensor]:
    """The deployed encoder's cache by the contract's names."""
    names = [spec.name for spec in cache_tensors(ATTO, HEIGHT, WIDTH)]
    return dict(zip(names, DeployedEncoder(MODEL(), form)(image), strict=True))


def without_affine(x: Tensor, ln: nn.LayerNorm, form: Precision) -> Tensor:
    """What a form hands to the maps that a LayerNorm's affine part is folded into."""
    return scaled(x, ln.eps, form.wide) if form.for_gpu else normalise(x, ln.eps)


def token_layers() -> list[Any]:
    model = MODEL()
    named = [("b2", model.b2), ("b5", model.b5)]
    return [
        pytest.param(layer, block.ln_kv if name == "b2" else block.ln_kv2, id=f"{name}.{i}")
        for name, block in named
        for i, layer in enumerate(block.layers)
    ]


def literal_alpha(layer: TokenCrossAttnLayer, h_BKD: Tensor, tokens_BKND: Tensor) -> Tensor:
    """Attention weights of the literal layer: [B, K, heads, N]."""
    return layer.update(h_BKD[:, :, None], layer.w_k(tokens_BKND), layer.w_v(tokens_BKND))[1][:, :, :, 0]


@pytest.mark.parametrize(("layer", "ln_kv"), token_layers())
def test_rewrite_1_keys_are_never_projected(layer: TokenCrossAttnLayer, ln_kv: nn.LayerNorm, form: Precision) -> None:
    folded = TokenCrossAttnFolded(layer, ln_kv, form)
    h, tokens = random64(2, 3, ATTO.d), random64(2, 3, 17, ATTO.d, seed=1, scale=3)
    # One query per head, W_K^T q, meets the tokens as they are; the key's bias and the scale are nowhere to be seen.
    q_BKHD = folded.w_q(normalise(h, layer.ln_q.eps)).unflatten(-1, (layer.heads, -1))
    if not form.for_gpu:
        q_BKHD = torch.einsum("bkhe,hed->bkhd", q_BKHD, folded.w_k)
    scores = torch.einsum("bkhd,bknd->bkhn", q_BKHD, without_affine(tokens, ln_kv, form))
    assert relative(scores.softmax(-1), literal_alpha(layer, h, ln_kv(tokens))) <= TOLERANCE


@pytest.mark.parametrize(("layer", "ln_kv"), token_layers())
def test_rewrite_2_values_are_never_projected(layer: TokenCrossAttnLayer, ln_kv: nn.LayerNorm, form: Precision) -> None:
    folded = TokenCrossAttnFolded(layer, ln_kv, form)
    h, tokens = random64(2, 3, ATTO.d), random64(2, 3, 17, ATTO.d, seed=1, scale=3)
    alpha_BKHN = literal_alpha(layer, h, ln_kv(tokens))
    mixed_BKHD = alpha_BKHN @ without_affine(tokens, ln_kv, form)
    if not form.for_gpu:
        mixed_BKHD = torch.einsum("bkhd,hde->bkhe", mixed_BKHD, folded.w_v)
    got = folded.w_o(mixed_BKHD.flatten(2))
    values = layer.w_v(ln_kv(tokens)).unflatten(-1, (layer.heads, -1)).transpose(2, 3)
    want = layer.w_o(merge_heads(alpha_BKHN[:, :, :, None] @ values))[:, :, 0]
    assert relative(got, want) <= TOLERANCE


@pytest.mark.parametrize(("layer", "ln_kv"), token_layers())
def test_rewrites_1_to_3_a_folded_layer_is_the_literal_layer(
    layer: TokenCrossAttnLayer, ln_kv: nn.LayerNorm, form: Precision
) -> None:
    h, tokens = random64(2, 3, ATTO.d), random64(2, 3, 17, ATTO.d, seed=1, scale=3) + 2
    got = TokenCrossAttnFolded(layer, ln_kv, form)(h, without_affine(tokens, ln_kv, form))
    assert relative(got, layer(h, ln_kv(tokens))) <= TOLERANCE


@pytest.mark.parametrize("with_bias", [True, False])
def test_rewrite_3_a_layernorm_folds_into_the_map_behind_it(with_bias: bool) -> None:
    ln = nn.LayerNorm(12).double().requires_grad_(False)
    linear = nn.Linear(12, 7, bias=with_bias).double().requires_grad_(False)
    nn.init.normal_(ln.weight)
    nn.init.normal_(ln.bias)
    x = random64(5, 12, scale=4)
    weight, bias = fold_norm(ln, linear.weight, linear.bias)
    assert relative(normalise(x, ln.eps) @ weight.T + bias, linear(ln(x))) <= TOLERANCE


def test_rewrite_3_a_centred_map_does_not_need_the_mean_to_be_taken_off() -> None:
    ln = nn.LayerNorm(12).double().requires_grad_(False)
    weight, x = random64(7, 12), random64(5, 12, seed=1, scale=4) + 3
    assert bool((x.mean(-1).abs() > 1).any()), "rows without a mean prove nothing"
    assert relative(scaled(x, ln.eps, torch.float64) @ centred(weight).T, ln(x) @ weight.T) <= TOLERANCE


def test_rewrite_3_a_layernorm_folds_into_the_feed_forward_network() -> None:
    layer = MODEL().b3a.layers[0]
    x = random64(2, 5, ATTO.d, scale=3)
    want = x + layer.ffn(layer.ln_ff(x))
    assert relative(FeedForward(layer.ln_ff, layer.ffn, torch.float64)(x), want) <= TOLERANCE


@pytest.mark.parametrize("index", [0, 1, 2, 3])
def test_rewrite_3_layernorms_fold_into_downsampling_and_blocks(index: int, form: Precision) -> None:
    stage: Any = MODEL().encoder.backbone[f"stages_{index}"]
    channels = ATTO.backbone_channels[max(index - 1, 0)]
    # GRN's factor goes into the weights of maps with more cells than channels: of both kinds.
    height, width = (8, 12) if index < 2 else (20, 24)
    x_BCHW = random64(2, channels, height, width, seed=index)
    got = Stage(stage, form)(x_BCHW.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    assert relative(got, stage(x_BCHW)) <= TOLERANCE


@pytest.mark.parametrize(("height", "width"), [(6, 5), (10, 11)])
def test_rewrite_3_a_layernorm_folds_into_fc1_and_grn_into_fc2(form: Precision, height: int, width: int) -> None:
    block: Any = MODEL().encoder.backbone["stages_1"].blocks[0]
    assert bool(block.mlp.grn.bias.any()), "a GRN without bias proves nothing"
    x_BCHW = random64(2, ATTO.backbone_channels[1], height, width)
    assert (height * width > ATTO.backbone_channels[1]) == (height == 10), "one case for each place of the factor"
    got = Block(block, form)(x_BCHW.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    assert relative(got, block(x_BCHW)) <= TOLERANCE


@pytest.mark.parametrize(("name", "level", "side"), [("l2_map", 2, 5), ("l3_map", 3, 5), ("l4_map", 4, 3)])
def test_rewrite_4_the_value_projections_commute_with_sampling(
    deployed: dict[str, Tensor], cache: Cache, points: Tensor, form: Precision, name: str, level: int, side: int
) -> None:
    stride = 2 ** (level + 1)
    height, width = HEIGHT // stride, WIDTH // stride
    cells_BKP2 = points[:, :, None] / stride
    got = Windows(side, height, width, form)(deployed[name], cells_BKP2)[:, :, 0]
    offsets = window_offsets(side, points)
    sampled = bilinear(cache.pyramid[level - 1], cells_BKP2 + offsets)
    project = {2: MODEL().b1.w_v2, 4: MODEL().b1.w_v4}.get(level, nn.Identity())
    assert relative(got, project(sampled)) <= TOLERANCE


@pytest.mark.parametrize("level", [2, 3, 4])
def test_rewrite_4_the_central_maps_have_a_ring_without_bias(
    deployed: dict[str, Tensor], cache: Cache, level: int
) -> None:
    # The 1x1 convolutions of L-hat have a bias: zeros outside must be put around the result, not go through it.
    want = ringed(cache.central[level - 2].permute(0, 2, 3, 1))
    assert relative(deployed[f"l{level}_central"], want) <= TOLERANCE


def test_rewrite_6_phi_of_the_fixed_offsets_is_a_table() -> None:
    b1 = MODEL().b1
    table = QueryEncoder(MODEL(), HEIGHT, WIDTH, EXACT).phi_table
    f_BKC = random64(1, 1, ATTO.neck_channels[0])
    want = []
    for dy in (-2, -1, 0, 1, 2):
        for dx in (-2, -1, 0, 1, 2):
            phi = [
                wave(math.pi * 2**i * delta / 6)
                for delta in (dx, dy)
                for wave in (math.sin, math.cos)
                for i in range(4)
            ]
            want.append(b1.w_loc(torch.cat([f_BKC[0, 0], torch.tensor(phi, dtype=torch.float64)])))
    feature_part = f_BKC[0, 0] @ b1.w_loc.weight[:, : ATTO.neck_channels[0]].T
    assert relative(feature_part + table, torch.stack(want)) <= TOLERANCE


def test_rewrites_4_to_7_the_query_encoder_is_the_literal_one(
    deployed: dict[str, Tensor], cache: Cache, points: Tensor, form: Precision
) -> None:
    model = MODEL()
    maps = [deployed[f"l{level}_map"] for level in (1, 2, 3, 4)]
    seed, tokens, *_ = QueryEncoder(model, HEIGHT, WIDTH, form)(maps, points)
    want_seed, want_tokens = model.b1(cache, points)
    assert relative(seed, want_seed) <= TOLERANCE
    # Attention does not see the order: here the centre is in its place, the literal form has it after the learned 8.
    order = [*range(12), 32, *range(12, 32), *range(33, ATTO.local_tokens)]
    assert sorted(order) == list(range(ATTO.local_tokens))
    assert relative(tokens, without_affine(want_tokens, model.b2.ln_kv, form)[:, :, order]) <= TOLERANCE


def test_rewrite_8_routed_tokens_come_embedded_and_normalised(deployed: dict[str, Tensor], cache: Cache) -> None:
    b5 = MODEL().b5
    assert bool(b5.e_g.any()), "an embedding of zeros proves nothing"
    affine = deployed["l4_routed"] * b5.ln_kv2.weight + b5.ln_kv2.bias
    assert relative(affine, b5.ln_kv2(cache.g + b5.e_g)) <= TOLERANCE


def test_rewrite_8_the_order_of_the_routed_tokens_does_not_matter(form: Precision) -> None:
    b5 = MODEL().b5
    folded = TokenCrossAttn(b5.layers, b5.ln_kv2, form)
    h, tokens = random64(2, 5, ATTO.d), random64(2, 5, 3 + ATTO.routed_tokens, ATTO.d, seed=1)
    shuffled = [0, 1, 2, *(3 + torch.randperm(ATTO.routed_tokens, generator=torch.Generator().manual_seed(0))).tolist()]
    assert relative(folded(h, tokens[:, :, shuffled]), folded(h, tokens)) <= TOLERANCE


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_rewrite_9_routing_scores_are_never_rounded_to_half_precision(dtype: torch.dtype) -> None:
    precision = Precision.of(dtype)
    layers = MODEL().b3b.layers
    routed = GlobalCrossAttn(layers, precision, routes=True)
    kv = [random64(1, ATTO.heads, 30, ATTO.d_head, seed=i).to(dtype) for i in range(4)]
    h, alpha_BKN = routed(random64(1, 7, ATTO.d).to(dtype), kv)
    assert h.dtype == dtype
    assert alpha_BKN.dtype == precision.wide
    assert alpha_BKN.sum(-1).double().sub(1).abs().max() <= 30 * torch.finfo(precision.wide).eps
    half_values = alpha_BKN.to(torch.bfloat16).to(precision.wide)
    assert not torch.equal(alpha_BKN, half_values), "the weights are multiples of a half precision's steps"


def test_rewrite_9_global_attention_is_the_literal_one_and_averages_over_heads(form: Precision) -> None:
    layer = MODEL().b3b.layers[1]
    assert isinstance(layer, CrossAttnLayer)
    h, k, v = random64(2, 7, ATTO.d), random64(2, 30, ATTO.d, seed=1), random64(2, 30, ATTO.d, seed=2)
    split = [x.unflatten(-1, (ATTO.heads, -1)).transpose(1, 2) for x in (k, v)]
    got, alpha_BKN = GlobalCrossAttn(nn.ModuleList([layer]), form, routes=True)(h, split)
    want, literal_alpha_BHKN = layer(h, k, v)
    assert relative(got, want) <= TOLERANCE
    assert relative(alpha_BKN, literal_alpha_BHKN.mean(1)) <= TOLERANCE


def timm_grn(stage: int = 0) -> Any:
    return MODEL().encoder.backbone[f"stages_{stage}"].blocks[0].mlp.grn


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e-9, 1e6])
def test_rewrite_10_grn_by_means_of_squares_is_timms_with_its_eps(scale: float, form: Precision) -> None:
    grn = timm_grn()
    x_BHWC = random64(2, 6, 7, grn.weight.numel(), scale=scale)
    got = x_BHWC * GRN(grn, form)(x_BHWC) + grn.bias
    assert relative(got, grn(x_BHWC)) <= TOLERANCE
    without_eps = x_BHWC * (1 + grn.weight * _response(x_BHWC)) + grn.bias
    if scale < 1e-3:
        assert relative(got - grn.bias, without_eps - grn.bias) > 1e-3, "eps does not matter here, so it is not tested"


def _response(x_BHWC: Tensor) -> Tensor:
    norm_B11C = x_BHWC.norm(dim=(1, 2), keepdim=True)
    return norm_B11C / norm_B11C.mean(-1, keepdim=True)


def test_rewrite_10_grn_is_scale_free(form: Precision) -> None:
    grn = GRN(timm_grn(), form)
    x_BHWC = random64(1, 20, 25, grn.gamma.numel(), scale=1e4)  # eps is 1e-6 beside norms of 2e5
    assert relative(grn(1024 * x_BHWC), grn(x_BHWC)) <= TOLERANCE


def test_rewrite_10_a_gpu_has_the_factor_of_grn_once_for_every_row_that_it_multiplies() -> None:
    grn = GRN(timm_grn(), EXACT_GPU)
    x_BHWC = random64(2, 6, 7, grn.gamma.numel(), scale=1e-6)
    once_B11C = x_BHWC.square().mean((1, 2), keepdim=True).sqrt() * 42**0.5
    want_B11C = 1 + grn.gamma * once_B11C / (once_B11C.mean(-1, keepdim=True) + grn.eps)
    assert EXACT_GPU.for_gpu
    assert relative(grn(x_BHWC, rows=5), want_B11C.expand(-1, -1, 5, -1)) <= TOLERANCE


@pytest.mark.parametrize("with_bias", [True, False])
def test_a_dense_layer_adds_to_a_sum_and_takes_a_factor_on_its_weights(with_bias: bool) -> None:
    weight_oi, bias_o = random64(7, 12), random64(7, seed=1)
    x, onto, factor_BOI = random64(2, 5, 12, seed=2), random64(2, 5, 7, seed=3), random64(2, 7, 12, seed=4)
    got = Dense(weight_oi, bias_o if with_bias else None, torch.float64)(x, onto, factor_BOI)
    want = torch.einsum("bni,boi,oi->bno", x, factor_BOI, weight_oi) + onto
    assert relative(got, want + bias_o if with_bias else want) <= TOLERANCE


def test_a_dense_layer_has_its_bias_in_the_product() -> None:
    weight_oi, bias_o, x = random64(7, 12), random64(7, seed=1), random64(2, 5, 12, seed=2)
    dense = Dense(weight_oi, bias_o, torch.float64, bias_in_product=True)
    assert dense.bias is None
    assert relative(dense(x), x @ weight_oi.T + bias_o) <= TOLERANCE


def test_rewrite_10_grn_does_not_overflow_float16_where_a_sum_of_squares_does() -> None:
    literal = timm_grn()
    # Channels of different sizes, else every response is 1.
    size = torch.linspace(0.5, 2, literal.weight.numel(), dtype=torch.float64)
    x_BHWC = (size * (100 + 5 * random64(1, 120, 160, literal.weight.numel()))).half()
    assert x_BHWC.square().sum((1, 2)).isinf().all(), "the naive statistics fit, so this proves nothing"
    factor_B11C = GRN(literal, Precision.of(torch.float16))(x_BHWC)
    assert factor_B11C.dtype == torch.float32
    want = literal(x_BHWC.double()) - literal.bias
    got = x_BHWC.double() * factor_B11C.double()
    assert bool(((got - want).abs() <= 1e-5 * want.abs()).all()), "float32 statistics of 19,200 squares"


@pytest.mark.parametrize("level", ["l3", "l4"])
def test_self_attention_folds_its_norm_its_scale_and_the_biases_of_keys_and_values(level: str, form: Precision) -> None:
    model = MODEL()
    layers, channels = {
        "l3": (model.encoder.l3_self_attn, ATTO.backbone_channels[2]),
        "l4": (model.neck.l4_self_attn, ATTO.neck_channels[3]),
    }[level]
    x_BCHW = random64(2, channels, 4, 5, scale=2)
    got = SelfAttention(layers, form)(x_BCHW.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    assert relative(got, layers(x_BCHW)) <= TOLERANCE


def test_normalisation_is_imagenets() -> None:
    every_byte = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(-1, -1, -1, 3)
    mean, std = (torch.tensor(x, dtype=torch.float64) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    want = (every_byte.double() / 255 - mean) / std
    assert relative(Normalisation(EXACT)(every_byte), want) <= TOLERANCE
    half = Normalisation(Precision.of(torch.float16))(every_byte)
    # Computed in float32 and rounded once: the nearest float16, but for ties that float32 breaks.
    assert half.dtype == torch.float16
    assert bool(((half.double() - want).abs() <= 0.5005 * torch.finfo(torch.float16).eps * want.abs() + 1e-6).all())


def test_normalisation_folds_into_the_stem(image: Tensor, form: Precision) -> None:
    conv: Any = MODEL().encoder.backbone["stem_0"]
    padded = image.clone()
    padded[:, :, 100:] = torch.tensor(PAD_COLOUR, dtype=torch.uint8)  # these values are normalised, not zeros
    normalisation, patches = input_layers(conv, form)
    got = patches(normalisation(padded)).permute(0, 3, 1, 2)
    assert relative(got, conv(Normalisation(EXACT)(padded).permute(0, 3, 1, 2))) <= TOLERANCE


def test_all_rewrites_together_the_encoder(deployed: dict[str, Tensor], cache: Cache) -> None:
    want: dict[str, Tensor] = {"l1_map": ringed(cache.pyramid[0].permute(0, 2, 3, 1))}
    for level, layers in ((3, cache.l3_kv), (4, cache.l4_kv)):
        for i, pair in enumerate(layers, start=1):
            for role, x in zip(("keys", "values"), pair, strict=True):
                want[f"l{level}_{role}_{i}"] = x.unflatten(-1, (ATTO.heads, -1)).transpose(1, 2)
    errors = {name: relative(deployed[name], tensor) for name, tensor in want.items()}
    assert len(errors) == 1 + 4 * ATTO.b3_layers
    assert max(errors.values()) <= TOLERANCE, errors


def test_all_rewrites_together_the_decoder(
    deployed: dict[str, Tensor], cache: Cache, points: Tensor, form: Precision
) -> None:
    model: SPD = MODEL()
    depth, routes = DeployedDecoder(model, HEIGHT, WIDTH, form, with_routes=True)(*deployed.values(), points)
    want_depth, want_routes = model.decode(cache, points)
    assert ((depth - want_depth).abs() / want_depth).max() <= TOLERANCE
    assert torch.equal(routes.sort(-1).values, want_routes.sort(-1).values)
    chosen = F.one_hot(routes, (HEIGHT // 32) * (WIDTH // 32)).sum(-2)
    assert bool((chosen <= 1).all()), "a position was routed twice"
