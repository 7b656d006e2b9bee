"""Rewrites 5 and 7: windows read by integer gathers from a ringed map, against the literal bilinear sampling."""

from __future__ import annotations

import math

import pytest
import torch
from export_support import EXACT, EXACT_GPU, FORMS, random64, relative
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from export.encoder import ringed
from export.layers import Precision
from export.windows import Blend, Places, Windows, blend_patterns, gather_rows
from spd.models.sampling import bilinear, window_offsets

SIDES = (5, 3, 1)
WIDE = torch.float64


def literal_windows(map_BCHW: Tensor, cells_BKP2: Tensor, side: int) -> Tensor:
    """Every sample of every window read on its own: [B, K, P, side^2, C]."""
    offsets = window_offsets(side, cells_BKP2)
    samples = bilinear(map_BCHW, (cells_BKP2[..., None, :] + offsets).flatten(2, 3))
    return samples.unflatten(2, (-1, side**2))


def windows(map_BCHW: Tensor, cells_BKP2: Tensor, side: int, form: Precision = EXACT) -> Tensor:
    height, width = map_BCHW.shape[-2:]
    return Windows(side, height, width, form)(ringed(map_BCHW.permute(0, 2, 3, 1)), cells_BKP2)


def places(height: int, width: int) -> dict[str, list[tuple[float, float]]]:
    """Positions (x, y) in cells of a map, by kind."""
    w, h = float(width), float(height)
    near = [(x, y) for x in (-6.0, -0.3, w + 5.99) for y in (-5.5, h / 2, h + 6)]
    return {
        "corners": [(0, 0), (w, 0), (0, h), (w, h), (0.5, 0.5), (w - 0.5, h - 0.5)],
        "borders": [(0, h / 3), (w, h / 3), (w / 3, 0), (w / 3, h), (1e-9, 1.2), (w - 1e-9, 1.2)],
        "cell boundaries": [(x / 2, y / 2) for x in range(2 * width + 1) for y in range(2 * height + 1)],
        "inside": [(w * i / 7.3, h * (6 - i) / 7.1) for i in range(7)],
        "outside by up to 6 cells": near,
        "far outside": [(-1e3, 1), (1, 1e5), (1e6, -1e6), (w + 17, h + 1e4)],
        "duplicates": [(w / 2, h / 2), (1.25, 1.75), (w / 2, h / 2), (1.25, 1.75), (0, 0), (0, 0)],
    }


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("kind", list(places(2, 2)))
@pytest.mark.parametrize("side", SIDES)
def test_rewrite_5_a_window_is_its_samples_read_one_by_one(side: int, kind: str, batch: int, form: Precision) -> None:
    map_BCHW = random64(batch, 4, 5, 7, seed=side)
    cells_BKP2 = torch.tensor(places(5, 7)[kind], dtype=WIDE)[None, :, None].repeat(batch, 1, 1, 1)
    got, want = windows(map_BCHW, cells_BKP2, side, form), literal_windows(map_BCHW, cells_BKP2, side)
    assert got.shape == want.shape
    assert (got - want).abs().max() <= 1e-9 * map_BCHW.abs().max()
    assert kind == "far outside" or bool(want.any()), "the case samples nothing but zeros"


@st.composite
def scenes(draw: st.DrawFn) -> tuple[int, Tensor, Tensor]:
    """A side, a random map and positions: anything within 20 cells of it, often on a half cell."""
    side = draw(st.sampled_from(SIDES))
    batch, channels, height, width, points, group = (draw(st.integers(1, most)) for most in (3, 3, 9, 9, 4, 3))
    halves = st.integers(-20, 2 * max(height, width) + 20).map(lambda i: i / 2)
    coordinate = halves | st.floats(-20, max(height, width) + 20, allow_nan=False, width=32)
    count = batch * points * group * 2
    cells = torch.tensor(draw(st.lists(coordinate, min_size=count, max_size=count)), dtype=WIDE)
    map_BCHW = random64(batch, channels, height, width, seed=draw(st.integers(0, 99)))
    return side, map_BCHW, cells.view(batch, points, group, 2)


@settings(max_examples=150, deadline=None)
@given(scenes(), st.sampled_from((EXACT, EXACT_GPU)))
def test_rewrite_5_holds_for_any_map_and_position(scene: tuple[int, Tensor, Tensor], form: Precision) -> None:
    side, map_BCHW, cells_BKP2 = scene
    got, want = windows(map_BCHW, cells_BKP2, side, form), literal_windows(map_BCHW, cells_BKP2, side)
    assert got.shape == want.shape
    assert (got - want).abs().max() <= 1e-9 * map_BCHW.abs().max()


@pytest.mark.parametrize("side", SIDES)
def test_rewrite_5_gathers_each_row_of_a_window_once(side: int) -> None:
    patterns = blend_patterns(side).view(4, side**2, (side + 1) ** 2)
    # Each sample has one neighbour in each of the four corners, and shares them with the samples around it.
    assert bool((patterns.sum(-1) == 1).all())
    for sample, offset in enumerate(window_offsets(side, patterns) + side // 2):
        x, y = offset.int().tolist()
        neighbours = patterns[:, sample].argmax(-1).tolist()
        assert neighbours == [(y + j) * (side + 1) + x + i for j in (0, 1) for i in (0, 1)]


@pytest.mark.parametrize("side", [5, 3])
def test_rewrite_5_the_centre_sample_is_the_middle_of_the_window(side: int) -> None:
    map_BCHW = random64(2, 3, 6, 5)
    cells_BKP2 = 12 * random64(2, 9, 1, 2, seed=1).sigmoid() - 3
    centre = windows(map_BCHW, cells_BKP2, side)[:, :, 0, side**2 // 2]
    assert relative(centre, bilinear(map_BCHW, cells_BKP2)[:, :, 0]) <= 1e-9


def test_rewrite_7_the_ring_is_zero_and_one_cell_wide() -> None:
    map_BHWC = random64(2, 3, 4, 5)
    cells = ringed(map_BHWC).unflatten(1, (3 + 2, 4 + 2))
    assert torch.equal(cells[:, 1:-1, 1:-1], map_BHWC)
    border = torch.ones(5, 6, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    assert not cells[:, border].any()
    assert int(border.sum()) == 2 * (5 + 6) - 4


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=4),
    batch=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_the_places_in_several_maps_are_found_together(sizes: list[tuple[int, int]], batch: int, seed: int) -> None:
    """One position in each map; smaller windows around it are the middle of the largest."""
    cells_BKP2 = 6 + 12 * random64(batch, 3, len(sizes), 2, seed=seed)
    index_BKPSS, weights_BKP4 = Places(max(SIDES), sizes, WIDE, WIDE)(cells_BKP2)
    for number, size in enumerate(sizes):
        map_BCHW = random64(batch, 2, *size, seed=number)
        rows = ringed(map_BCHW.permute(0, 2, 3, 1))
        for side in SIDES:
            want = literal_windows(map_BCHW, cells_BKP2[:, :, number, None], side)[:, :, 0]
            for form in (EXACT, EXACT_GPU):
                got = Blend(side, form)(rows, index_BKPSS[:, :, number], weights_BKP4[:, :, number])
                assert got.shape == want.shape
                assert (got - want).abs().max() <= 1e-9 * map_BCHW.abs().max()


@pytest.mark.parametrize("side", SIDES)
def test_rewrite_7_samples_beyond_the_ring_are_exactly_zero(side: int) -> None:
    map_BCHW = random64(1, 2, 4, 6)
    far = torch.tensor([(-side - 1.0, 2.0), (3.0, -side - 2.5), (6.0 + side, 2.0), (1e7, 1e7)], dtype=WIDE)
    assert not windows(map_BCHW, far[None, :, None], side).any()


def test_rewrite_7_gathers_from_each_images_own_table() -> None:
    table_BRC = random64(3, 5, 2)
    index = torch.tensor([[[0, 4]], [[3, 3]], [[1, 0]]])
    want = torch.stack([table_BRC[b, index[b]] for b in range(3)])
    assert torch.equal(gather_rows(table_BRC, index), want)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_coordinates_keep_their_precision_in_half_precision_graphs(dtype: torch.dtype) -> None:
    # Cell 2000.3 has no float16 within 0.5 and no bfloat16 within 4; an integer map tells which rows were read.
    width = 2048
    map_BCHW = torch.arange(width, dtype=torch.float32).remainder(16)[None, None, None].repeat(1, 1, 3, 1)
    x = 2000.3
    cells = torch.tensor([[[[x, 1.5]]]], dtype=torch.float32)
    rows = ringed(map_BCHW.permute(0, 2, 3, 1)).to(dtype)
    got = float(Windows(1, 3, width, Precision.of(dtype))(rows, cells))
    left = math.floor(x - 0.5)
    fraction = x - 0.5 - left
    want = (1 - fraction) * (left % 16) + fraction * ((left + 1) % 16)
    assert got == pytest.approx(want, rel=2 * torch.finfo(dtype).eps)
