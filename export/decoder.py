"""The decoder in deployment form: cache and points to depth, with a quarter of the arithmetic (design 4)."""

from __future__ import annotations

import math
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.layers import Dense, FeedForward, Precision, attend, centred, fold_norm, normalise, without_affine
from export.windows import Blend, Places, Windows, gather_rows
from spd.config import OFFSET_FREQUENCIES, PE_FREQUENCIES, STRIDES, WINDOW_SIDES
from spd.models import SPD
from spd.models.attention import CrossAttnLayer, TokenCrossAttnLayer
from spd.models.sampling import fourier, offset_encoding, window_offsets


class DeployedDecoder(nn.Module):
    """Cache and points to depth; the cache's order is that of `spd.bundle.contract.cache_tensors`."""

    def __init__(self, model: SPD, height: int, width: int, precision: Precision, with_routes: bool = False) -> None:
        super().__init__()
        config = model.config
        self.b3_layers, self.routed_tokens = config.b3_layers, config.routed_tokens
        self.with_routes = with_routes
        self.b1 = QueryEncoder(model, height, width, precision)
        self.b2 = TokenCrossAttn(model.b2.layers, model.b2.ln_kv, precision)
        self.b3a = GlobalCrossAttn(model.b3a.layers, precision)
        self.b3b = GlobalCrossAttn(model.b3b.layers, precision, routes=True)
        self.b5 = FusedDecoder(model, precision)
        self.head = Head(model, precision)

    def forward(self, *cache_and_points: Tensor) -> tuple[Tensor, ...]:
        """Cache, then points (u, v) [B, K, 2] in pixels, to depth in metres [B, K] (and routes, if asked for)."""
        *cache, points = cache_and_points
        maps, central, (l4_routed,) = cache[:4], cache[4:7], cache[-1:]
        keys_values = cache[7:-1]
        l3_kv, l4_kv = keys_values[: 2 * self.b3_layers], keys_values[2 * self.b3_layers :]
        h, tokens, index, weights = self.b1(maps, points)
        h = self.b2(h, tokens)
        h, _ = self.b3a(h, l3_kv)
        h, alpha = self.b3b(h, l4_kv)
        assert alpha is not None
        routes = alpha.topk(self.routed_tokens, dim=-1, sorted=True).indices
        h = self.b5(h, central, gather_rows(l4_routed, routes), index, weights)
        depth = self.head(h)
        return (depth, routes) if self.with_routes else (depth,)


class QueryEncoder(nn.Module):
    """B1 (paper 6.1): the seed h0, the local tokens, normalised by LN_kv's statistics, and where they lie.

    On a GPU the tokens keep their mean, which the folded W_K and W_V ignore. The kernel that adds up their statistics
    then writes float16 instead of float32 differences from the mean: 18 MB less for 256 points of `tiny`.
    """

    def __init__(self, model: SPD, height: int, width: int, precision: Precision) -> None:
        super().__init__()
        b1, dtype, wide = model.b1, precision.graph, precision.wide
        l1_channels = model.config.neck_channels[0]
        self.dtype, self.wide, self.precision = dtype, wide, precision
        self.eps_kv = model.b2.ln_kv.eps
        self.r_max = b1.r_max
        self.centre = WINDOW_SIDES[0] ** 2 // 2
        sizes = [(height // s, width // s) for s in STRIDES]
        cells_per_pixel = 1 / torch.tensor(STRIDES, dtype=wide)[:, None]  # exact: strides are powers of two
        self.cells_per_pixel = nn.Parameter(cells_per_pixel, requires_grad=False)
        self.places = Places(max(WINDOW_SIDES), sizes, dtype, wide)
        self.windows = nn.ModuleList(Blend(side, precision) for side in WINDOW_SIDES)
        self.learned_window = Windows(1, *sizes[0], precision)
        self.image_size = nn.Parameter(torch.tensor([width, height], dtype=wide), requires_grad=False)

        self.w_off = Dense(b1.w_off.weight, b1.w_off.bias, dtype)
        self.w_q = Dense(b1.w_q.weight, b1.w_q.bias, dtype)
        w_loc = b1.w_loc.weight.detach().double()
        self.w_loc = Dense(w_loc[:, :l1_channels], None, dtype)
        if precision.for_gpu:
            self.w_learned = Dense(w_loc, b1.w_loc.bias, dtype)
        else:
            self.w_phi = Dense(w_loc[:, l1_channels:], b1.w_loc.bias, dtype)
        # phi of the 25 fixed offsets is constant, so W_loc phi + b is a table (rewrite 6).
        offsets = window_offsets(WINDOW_SIDES[0], torch.zeros(1, dtype=torch.float64))
        table = offset_encoding(offsets, self.r_max) @ w_loc[:, l1_channels:].T + b1.w_loc.bias.double()
        self.phi_table = nn.Parameter(table.to(dtype), requires_grad=False)

        rpe = b1.rpe.double()
        inner = b1.inner_rpe().double()
        e = b1.e_level.double()
        local = e[0].expand(len(table) + b1.w_off.out_features // 2, -1)
        embedding = torch.cat([local, e[1] + rpe, e[2] + rpe, e[3] + inner])
        self.embedding = nn.Parameter(embedding.to(dtype), requires_grad=False)

    def forward(self, maps: list[Tensor], points_BK2: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Maps of L1..L4 and points in pixels to h0 [B, K, D], tokens [B, K, 92, D] and what `Places` says of L1..L4.

        Token order: 25 fixed L1, 8 learned, 25 L2, 25 L3, 9 L4; attention does not see it.
        """
        cells_BKL2 = points_BK2[:, :, None] * self.cells_per_pixel
        index_BKLSS, weights_BKL4 = self.places(cells_BKL2)
        l1, l2, l3, l4 = (
            blend(rows, index, weights)
            for blend, rows, index, weights in zip(
                self.windows, maps, index_BKLSS.unbind(2), weights_BKL4.unbind(2), strict=True
            )
        )
        f_BKC = l1[:, :, self.centre]
        pe_BKE = fourier(2 * math.pi * points_BK2 / self.image_size, PE_FREQUENCIES).to(self.dtype)
        seed_BKD = self.w_q(torch.cat([f_BKC, pe_BKE], dim=-1))

        reach = torch.tanh(self.w_off(f_BKC).to(self.wide)).unflatten(-1, (-1, 2))
        learned_BKMC = self.learned_window(maps[0], cells_BKL2[:, :, :1] + self.r_max * reach)[:, :, :, 0]
        phi_BKME = fourier(math.pi * reach, OFFSET_FREQUENCIES).to(self.dtype)
        fixed_BKND = F.gelu(self.w_loc(l1) + self.phi_table)
        if self.precision.for_gpu:
            learned_BKMD = F.gelu(self.w_learned(torch.cat([learned_BKMC, phi_BKME], dim=-1)))
        else:
            learned_BKMD = F.gelu(self.w_loc(learned_BKMC) + self.w_phi(phi_BKME))
        tokens_BKND = torch.cat([fixed_BKND, learned_BKMD, l2, l3, l4], dim=2) + self.embedding
        tokens_BKND = without_affine(tokens_BKND, self.eps_kv, self.precision)
        return seed_BKD, tokens_BKND, index_BKLSS, weights_BKL4


class TokenCrossAttn(nn.Module):
    """B2 or the layers of B5: attention of one query over its own tokens, which are never projected."""

    def __init__(self, layers: nn.ModuleList, ln_kv: nn.LayerNorm, precision: Precision) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TokenCrossAttnFolded(layer, ln_kv, precision) for layer in layers)

    def forward(self, h_BKD: Tensor, tokens_BKND: Tensor) -> Tensor:
        """Queries h [B, K, D] and tokens [B, K, N, D], normalised by LN_kv's statistics, to h [B, K, D]."""
        for layer in self.layers:
            h_BKD = layer(h_BKD, tokens_BKND)
        return h_BKD


class TokenCrossAttnFolded(nn.Module):
    """One layer with W_K moved to the query and W_V after the mix (rewrites 1 to 3).

    `q . W_K t = (W_K^T q) . t`, and `sum a_j W_V t_j = W_V sum a_j t_j`. The bias of K cancels in the softmax, the bias
    of V (weights sum to 1) goes through W_O into its bias. LN_kv's affine part is in the folded W_K and W_V, and both
    ignore the mean of a token.

    On a GPU, W_Q with W_K and W_V with W_O are one matrix each: 20 kernels less in `tiny`, for 1.5 million
    multiply-accumulates more per point.
    """

    def __init__(self, layer: nn.Module, ln_kv: nn.LayerNorm, precision: Precision) -> None:
        super().__init__()
        assert isinstance(layer, TokenCrossAttnLayer)
        self.heads, self.eps, self.for_gpu = layer.heads, layer.ln_q.eps, precision.for_gpu
        dtype, d = precision.graph, layer.w_q.out_features
        scale = (d // self.heads) ** -0.5
        weight_q, bias_q = fold_norm(layer.ln_q, layer.w_q.weight, layer.w_q.bias)
        weight_k, _ = fold_norm(ln_kv, layer.w_k.weight, layer.w_k.bias)
        weight_v, bias_v = fold_norm(ln_kv, layer.w_v.weight, layer.w_v.bias)
        weight_o = layer.w_o.weight.double()
        weight_q, bias_q = weight_q * scale, bias_q * scale
        bias_o = layer.w_o.bias.double() + weight_o @ bias_v
        k_HED, v_HED = (centred(weight).view(self.heads, -1, d) for weight in (weight_k, weight_v))
        if self.for_gpu:
            q_HEI, o_OHE = weight_q.view(self.heads, -1, d), weight_o.view(d, self.heads, -1)
            weight_q = torch.einsum("hei,hed->hdi", q_HEI, k_HED).flatten(0, 1)
            bias_q = torch.einsum("he,hed->hd", bias_q.view(self.heads, -1), k_HED).flatten()
            weight_o = torch.einsum("ohe,hed->ohd", o_OHE, v_HED).flatten(1)
        else:
            self.w_k = nn.Parameter(k_HED.detach().to(dtype), requires_grad=False)
            self.w_v = nn.Parameter(v_HED.transpose(1, 2).contiguous().detach().to(dtype), requires_grad=False)
        self.w_q = Dense(weight_q, bias_q, dtype)
        self.w_o = Dense(weight_o, bias_o, dtype)
        self.ffn = FeedForward(layer.ln_ff, layer.ffn, dtype)

    def forward(self, h_BKD: Tensor, tokens_BKND: Tensor) -> Tensor:
        """[B, K, D] and [B, K, N, D] to [B, K, D]."""
        q_BKHD = self.w_q(normalise(h_BKD, self.eps)).unflatten(-1, (self.heads, -1))
        if self.for_gpu:
            mixed_BKHD = attend_flat(q_BKHD, tokens_BKND)
        else:
            q_BKHD = _per_head(q_BKHD, self.w_k)
            mixed_BKHD = _per_head(attend(q_BKHD, tokens_BKND, tokens_BKND), self.w_v)
        h_BKD = h_BKD + self.w_o(mixed_BKHD.flatten(2))
        return self.ffn(h_BKD)


def attend_flat(q_BKHD: Tensor, tokens_BKND: Tensor) -> Tensor:
    """Attention of [B, K, heads, D] over [B, K, N, D], which are both keys and values, as one list of B * K points.

    A GPU's fused attention takes one batch dimension. Given two, the compiler copies queries, keys, values and results
    in kernels of their own, the keys transposed: 11 kernels and 41 MB more for 256 points of `tiny`.
    """
    tokens_PND = tokens_BKND.flatten(0, 1)
    return attend(q_BKHD.flatten(0, 1), tokens_PND, tokens_PND).view_as(q_BKHD)


def _per_head(x_BKHI: Tensor, weight_HIO: Tensor) -> Tensor:
    """Each head's own linear map: [B, K, heads, I] and [heads, I, O] to [B, K, heads, O]."""
    return (x_BKHI.transpose(1, 2) @ weight_HIO).transpose(1, 2)


class GlobalCrossAttn(nn.Module):
    """B3a or B3b over keys and values of the cache (paper 6.3a, 6.3b)."""

    def __init__(self, layers: nn.ModuleList, precision: Precision, *, routes: bool = False) -> None:
        super().__init__()
        last = len(layers) - 1
        self.layers = nn.ModuleList(
            GlobalCrossAttnLayer(layer, precision, routes=routes and i == last) for i, layer in enumerate(layers)
        )

    def forward(self, h_BKD: Tensor, keys_values: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Queries [B, K, D] and K, V of each layer, [B, heads, N, d_head], to h and alpha-bar [B, K, N] (B3b only)."""
        alpha: Tensor | None = None
        for layer, keys, values in zip(self.layers, keys_values[::2], keys_values[1::2], strict=True):
            h_BKD, alpha = layer(h_BKD, keys, values)
        return h_BKD, alpha


class GlobalCrossAttnLayer(nn.Module):
    """One layer; if it routes, its scores and softmax are computed in the dtype of islands, because they feed TopK."""

    def __init__(self, layer: nn.Module, precision: Precision, *, routes: bool) -> None:
        super().__init__()
        assert isinstance(layer, CrossAttnLayer)
        self.heads, self.eps = layer.heads, layer.ln_q.eps
        self.precision, self.routes = precision, routes
        dtype = precision.graph
        scale = (layer.w_q.out_features // self.heads) ** -0.5
        weight_q, bias_q = fold_norm(layer.ln_q, layer.w_q.weight, layer.w_q.bias)
        self.w_q = Dense(weight_q * scale, bias_q * scale, dtype)
        self.w_o = Dense(layer.w_o.weight, layer.w_o.bias, dtype)
        self.ffn = FeedForward(layer.ln_ff, layer.ffn, dtype)

    def forward(self, h_BKD: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor | None]:
        """Queries [B, K, D], K and V [B, heads, N, d_head], to h and the head-averaged weights [B, K, N] if routing."""
        q_BHKE = self.w_q(normalise(h_BKD, self.eps)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        alpha_BKN: Tensor | None = None
        if self.routes:
            wide = self.precision.wide
            alpha_BHKN = (q_BHKE.to(wide) @ keys.to(wide).transpose(-1, -2)).softmax(dim=-1)
            # One head is added to the next. A mean over an axis takes a CPU two to five times as long. A GPU takes two
            # kernels for it, and writes the weights once more: 4 MB for 256 points of `tiny`.
            alpha_BKN = reduce(torch.add, alpha_BHKN.unbind(1)) / self.heads
            mixed_BHKE = alpha_BHKN.to(values.dtype) @ values
        else:
            mixed_BHKE = attend(q_BHKE, keys, values)
        h_BKD = h_BKD + self.w_o(mixed_BHKE.transpose(1, 2).flatten(2))
        return self.ffn(h_BKD), alpha_BKN


class FusedDecoder(nn.Module):
    """B5 (paper 6.5): central tokens are sampled and normalised here, routed ones come normalised."""

    def __init__(self, model: SPD, precision: Precision) -> None:
        super().__init__()
        b5, dtype = model.b5, precision.graph
        self.eps_kv2, self.precision = b5.ln_kv2.eps, precision
        self.sample = Blend(1, precision)
        self.e_central = nn.Parameter(b5.e_central.detach().to(dtype), requires_grad=False)
        self.attention = TokenCrossAttn(b5.layers, b5.ln_kv2, precision)

    def forward(
        self, h_BKD: Tensor, central: list[Tensor], routed_BKRD: Tensor, index_BKLSS: Tensor, weights_BKL4: Tensor
    ) -> Tensor:
        """h3b [B, K, D] to h5 [B, K, D]; `central` are the maps of L-hat 2..4, places those of the levels in B1."""
        sampled = [
            self.sample(rows, index, weights)
            for rows, index, weights in zip(central, index_BKLSS.unbind(2)[1:], weights_BKL4.unbind(2)[1:], strict=True)
        ]
        central_BK3D = without_affine(torch.cat(sampled, dim=2) + self.e_central, self.eps_kv2, self.precision)
        return self.attention(h_BKD, torch.cat([central_BK3D, routed_BKRD], dim=2))


class Head(nn.Module):
    """The depth head (paper 6.5); its last layer and exp are float32."""

    def __init__(self, model: SPD, precision: Precision) -> None:
        super().__init__()
        self.w_r1 = Dense(model.b5.w_r1.weight, model.b5.w_r1.bias, precision.graph)
        self.w_r2 = Dense(model.b5.w_r2.weight, model.b5.w_r2.bias, precision.wide)

    def forward(self, h_BKD: Tensor) -> Tensor:
        """h5 [B, K, D] to depth in metres [B, K]."""
        return self.w_r2(F.gelu(self.w_r1(h_BKD))).squeeze(-1).exp()
