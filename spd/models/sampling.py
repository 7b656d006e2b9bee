"""Where a point lies in a feature map, and its encodings (paper 6, 6.1). The only code that knows the paper's grid."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from spd.config import OFFSET_FREQUENCIES, PE_FREQUENCIES
from spd.models.precision import at_least_float32


def constants(values: Sequence[float], like: Tensor) -> Tensor:
    """Some numbers [N] in the dtype and on the device of a tensor.

    Each is filled in by the device: `new_tensor` copies them from the host, which waits for all that a GPU has to do.
    """
    return torch.stack([like.new_full((), value) for value in values])


def bilinear(map_BCHW: Tensor, cells_BKN2: Tensor) -> Tensor:
    """Bilinear samples with zeros outside: `grid = 2 p / dim - 1` under `align_corners=False` (paper 6).

    Args:
        map_BCHW: feature map of one level.
        cells_BKN2: positions (x, y) in cells of that level; the map covers 0..W, 0..H, cell (i, j) is centred at
            (i + 0.5, j + 0.5).

    Returns:
        [B, K, N, C], in the dtype of the map; a map of less than float32 is sampled in float32.
    """
    height, width = map_BCHW.shape[-2:]
    size = constants((width, height), cells_BKN2)
    # torch wants map and grid in one dtype. In bfloat16 a grid is up to 0.63 pixels off in an image 640 wide.
    wide_BCHW = at_least_float32(map_BCHW)
    grid = (2 * cells_BKN2 / size - 1).to(wide_BCHW.dtype)
    sampled_BCKN = F.grid_sample(wide_BCHW, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return sampled_BCKN.permute(0, 2, 3, 1).to(map_BCHW.dtype)


def window_offsets(side: int, like: Tensor) -> Tensor:
    """Offsets (dx, dy) of a side x side window, row by row, in cells: [side * side, 2]."""
    reach = torch.arange(side, device=like.device, dtype=like.dtype) - side // 2
    dy, dx = torch.meshgrid(reach, reach, indexing="ij")
    return torch.stack([dx, dy], dim=-1).reshape(-1, 2)


def fourier(values: Tensor, frequencies: int) -> Tensor:
    """Sines and cosines of `values * 2**l`, l = 0..frequencies - 1, per coordinate: [..., 2] to [..., 4 * frequencies].

    The order is sin(x), cos(x), sin(y), cos(y), each over all octaves (paper 6.1).
    """
    octaves = 2.0 ** torch.arange(frequencies, device=values.device, dtype=values.dtype)
    angles = values[..., None] * octaves
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)


def positional_encoding(points_BK2: Tensor, height: int, width: int) -> Tensor:
    """The paper's pe_q of points (u, v) in pixels: [B, K, 32] (paper 6.1)."""
    size = constants((width, height), points_BK2)
    return fourier(2 * math.pi * points_BK2 / size, PE_FREQUENCIES)


def offset_encoding(offsets: Tensor, r_max: float) -> Tensor:
    """The paper's phi(delta) of offsets (dx, dy) in L1 cells, angles pi * 2**l * delta / r_max: [..., 16]."""
    return fourier(math.pi * offsets / r_max, OFFSET_FREQUENCIES)
