"""Bilinear + MLP against an independent reading of its feature map."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from spd.baselines.bilinear_mlp import BilinearMLP
from spd.config import PRESETS
from spd.models import SPD

ATTO = PRESETS["atto"]
HEIGHT, WIDTH = 128, 160
Array = NDArray[np.float64]


@pytest.fixture(scope="module")
def model() -> BilinearMLP:
    """With every term alive: norms and biases off their initial values."""
    torch.manual_seed(0)
    network = BilinearMLP(ATTO)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return network.eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(2, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))


def feature_at(l1: Array, u: float, v: float) -> Array:
    """The bilinear mean of the four cells around (u, v) in pixels, cells outside being zero: [C]."""
    padded = np.pad(l1, ((0, 0), (1, 1), (1, 1)))
    x, y = u / 4 - 0.5 + 1, v / 4 - 0.5 + 1
    i, j = math.floor(x), math.floor(y)
    a, b = x - i, y - j
    top = (1 - a) * padded[:, j, i] + a * padded[:, j, i + 1]
    bottom = (1 - a) * padded[:, j + 1, i] + a * padded[:, j + 1, i + 1]
    return (1 - b) * top + b * bottom


def depth_of(model: BilinearMLP, feature: Array) -> float:
    """Two layers with GELU between them, in float64."""
    w1, b1, w2, b2 = (
        tensor.detach().double().numpy()
        for tensor in (model.w_1.weight, model.w_1.bias, model.w_2.weight, model.w_2.bias)
    )
    hidden = w1 @ feature + b1
    activated = [0.5 * x * (1 + math.erf(x / math.sqrt(2))) for x in hidden]
    return math.exp((w2 @ activated + b2).item())


def test_decode_reads_the_feature_at_the_point(model: BilinearMLP, images: torch.Tensor) -> None:
    # Pixel centres, centres of cells of L1 (2 + 4 i), cell borders, and the image's corners.
    points = [(10.5, 20.5), (87.5, 3.5), (46.0, 102.0), (64.0, 32.0), (0.0, 0.0), (159.5, 127.5), (33.3, 0.1)]
    points_BK2 = torch.tensor([points, points[::-1]])
    with torch.no_grad():
        cache = model.encode(images)
        depth, routes = model.decode(cache, points_BK2)
    assert routes is None
    assert depth.shape == (2, len(points))
    for image, asked in enumerate([points, points[::-1]]):
        l1 = cache.l1[image].double().numpy()
        expected = [depth_of(model, feature_at(l1, u, v)) for u, v in asked]
        np.testing.assert_allclose(depth[image].numpy(), expected, rtol=1e-4)
    assert depth.std() > 0.01, "all depths are alike: the comparison says nothing"


def test_a_cell_centre_is_one_cell(model: BilinearMLP, images: torch.Tensor) -> None:
    with torch.no_grad():
        cache = model.encode(images[:1])
        depth, _ = model.decode(cache, torch.tensor([[[4 * 7 + 2.0, 4 * 11 + 2.0]]]))
    expected = depth_of(model, cache.l1[0, :, 11, 7].double().numpy())
    np.testing.assert_allclose(depth.item(), expected, rtol=1e-5)


def test_l1_is_that_of_spd(model: BilinearMLP, images: torch.Tensor) -> None:
    torch.manual_seed(2)
    spd = SPD(ATTO).eval()
    missing = spd.encoder.load_state_dict(model.encoder.state_dict(), strict=False)
    assert not missing.unexpected_keys
    spd.neck.projections[0].load_state_dict(model.neck.state_dict())
    with torch.no_grad():
        cache = model.encode(images)
        reference = spd.encode(images).pyramid[0]
    assert cache.l1.shape == (2, ATTO.neck_channels[0], HEIGHT // 4, WIDTH // 4)
    torch.testing.assert_close(cache.l1, reference)


def test_forward_is_encode_and_decode(model: BilinearMLP, images: torch.Tensor) -> None:
    points = torch.rand(2, 9, 2) * 128
    with torch.no_grad():
        assert torch.equal(model(images, points), model.decode(model.encode(images), points)[0])


def test_every_parameter_gets_a_gradient(images: torch.Tensor) -> None:
    torch.manual_seed(3)
    network = BilinearMLP(ATTO).train()
    network(images, torch.rand(2, 64, 2) * 128).log().pow(2).mean().backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not without


@pytest.mark.parametrize("preset", PRESETS)
def test_size(preset: str) -> None:
    """Stem, stage 1, neck and head, and nothing else: counted by hand."""
    config = PRESETS[preset]
    depth = 3 if preset == "tiny" else 2
    c, l1 = config.backbone_channels[0], config.neck_channels[0]
    stem = 3 * 16 * c + c + 2 * c
    block = 49 * c + c + 2 * c + (c * 4 * c + 4 * c) + 2 * 4 * c + (4 * c * c + c)
    neck = c * l1 + l1 + 2 * l1
    head = l1 * 2 * l1 + 2 * l1 + 2 * l1 + 1
    with torch.device("meta"):
        network = BilinearMLP(config)
    assert sum(parameter.numel() for parameter in network.parameters()) == stem + depth * block + neck + head


def test_predictions_start_at_the_median_of_nyu(images: torch.Tensor) -> None:
    torch.manual_seed(4)
    network = BilinearMLP(ATTO)
    with torch.no_grad():
        depth = network(images, torch.rand(2, 256, 2) * 128)
        assert 1.5 < depth.median() < 4
        network.w_2.weight.zero_()
        torch.testing.assert_close(network(images, torch.rand(2, 4, 2)), torch.full((2, 4), 2.5))


def test_refusals(model: BilinearMLP) -> None:
    with pytest.raises(ValueError, match="multiples of 32"):
        model.encode(torch.zeros(1, 3, 100, 160))
    with pytest.raises(ValueError, match=r"has channels \[40\]"):
        BilinearMLP(replace(ATTO, backbone_channels=(48, 80, 160, 320)))
