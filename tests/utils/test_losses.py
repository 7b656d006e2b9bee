"""The training loss, against the paper's formula in float64 and against its properties."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spd.utils.losses import LAMBDA_VAR, silog

depths = st.floats(0.1, 20.0)


def looped(predicted: list[list[float]], truth: list[list[float]], lambda_var: float) -> float:
    """Paper 7.2, image by image and point by point."""
    losses = []
    for d, d_true in zip(predicted, truth, strict=True):
        deltas = [math.log(p) - math.log(t) for p, t in zip(d, d_true, strict=True)]
        k = len(deltas)
        variance = math.fsum(delta**2 for delta in deltas) / k - lambda_var * (math.fsum(deltas) / k) ** 2
        losses.append(math.sqrt(max(variance, 0)))
    return math.fsum(losses) / len(losses)


@st.composite
def batches(draw: st.DrawFn) -> tuple[list[list[float]], list[list[float]]]:
    images, points = draw(st.integers(1, 3)), draw(st.integers(1, 6))
    image = st.lists(depths, min_size=points, max_size=points)
    return tuple(draw(st.lists(image, min_size=images, max_size=images)) for _ in range(2))  # type: ignore[return-value]


@settings(deadline=None)
@given(batches(), st.floats(0, 1))
def test_as_the_paper_writes_it(batch: tuple[list[list[float]], list[list[float]]], lambda_var: float) -> None:
    predicted, truth = batch
    found = silog(torch.tensor(predicted), torch.tensor(truth), lambda_var)
    # An exact prediction costs the root of the smallest variance, 1e-4; float32 cancels to about 1e-3 near it.
    assert float(found) == pytest.approx(looped(predicted, truth, lambda_var), abs=2e-3)


def test_worked_out_by_hand() -> None:
    # deltas ln 2 and 0, then ln 4 twice: sqrt(1/2 - 1/8) ln 2 and sqrt(1 - 1/2) ln 4
    found = silog(torch.tensor([[2.0, 3.0], [4.0, 8.0]]), torch.tensor([[1.0, 3.0], [1.0, 2.0]]))
    expected = math.log(2) * (math.sqrt(3 / 8) + 2 * math.sqrt(1 / 2)) / 2
    assert LAMBDA_VAR == 0.5
    assert float(found) == pytest.approx(expected, rel=1e-6)


def random_depths(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 5 + 0.5


@pytest.mark.parametrize(("lambda_var", "same"), [(1.0, True), (0.5, False), (0.0, False)])
def test_only_lambda_of_1_ignores_the_scale(lambda_var: float, same: bool) -> None:
    predicted, truth = random_depths(3, 20), random_depths(3, 20, seed=1)
    one, scaled = silog(predicted, truth, lambda_var), silog(3 * predicted, truth, lambda_var)
    assert torch.allclose(one, scaled, rtol=1e-4) == same


def gradient(predicted: Tensor, truth: Tensor) -> Tensor:
    leaf = predicted.clone().requires_grad_()
    silog(leaf, truth).backward()
    assert leaf.grad is not None
    return leaf.grad


def test_processes_can_share_a_batch() -> None:
    """The mean of the gradients of two halves is that of the whole, also where the halves differ in difficulty."""
    predicted = random_depths(4, 16)
    truth = torch.cat([predicted[:2] * 1.01, random_depths(2, 16, seed=1)])
    halves = torch.cat([gradient(predicted[:2], truth[:2]), gradient(predicted[2:], truth[2:])]) / 2
    assert torch.allclose(gradient(predicted, truth), halves, rtol=1e-5, atol=1e-8)


def test_gradient_as_finite_differences() -> None:
    predicted, truth = random_depths(2, 5), random_depths(2, 5, seed=1)
    found = gradient(predicted, truth)
    for image, point in [(0, 0), (0, 4), (1, 2)]:
        step = [p.double().tolist() for p in (predicted, predicted)]
        step[0][image][point] += 1e-5
        step[1][image][point] -= 1e-5
        expected = (looped(step[0], truth.tolist(), 0.5) - looped(step[1], truth.tolist(), 0.5)) / 2e-5
        assert float(found[image, point]) == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_an_exact_prediction_has_a_finite_gradient() -> None:
    truth = random_depths(2, 8)
    assert gradient(truth, truth).isfinite().all()
    assert float(silog(truth, truth)) < 1e-3


def test_low_precision_is_widened_first() -> None:
    """In bfloat16 the log of a depth near 5 m would be rounded by 0.4%."""
    truth = random_depths(1, 64)
    predicted = (truth * 1.3).bfloat16()
    assert silog(predicted, truth).dtype == torch.float32
    assert float(silog(predicted, truth)) == pytest.approx(
        looped(predicted.double().tolist(), truth.tolist(), 0.5), rel=1e-5
    )
