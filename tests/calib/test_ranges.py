"""Ranges: every number against an independent look at the module, and the rule that picks the module to keep."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from calib_support import ATTO, OPTIONS, SIZE, photos_of

from calib.ranges import Ranges, TensorRange, measure_ranges
from calib.samples import Sample, gate_samples
from export.diagnosis import module_outputs
from export.encoder import DeployedEncoder
from export.layers import Precision
from export.policy import lowerable_modules
from export.reference import make_reference
from spd.images import read_image
from spd.models import seeded
from spd.preprocess import Letterbox

MODEL = seeded(ATTO)


@pytest.fixture(scope="module")
def samples(photos: Path) -> list[Sample]:
    return photos_of(photos, 32) + gate_samples(SIZE, 32)


@pytest.fixture(scope="module")
def ranges(samples: list[Sample]) -> Ranges:
    return measure_ranges(MODEL, OPTIONS, samples)


@pytest.fixture(scope="module")
def outputs(samples: list[Sample]) -> list[dict[str, torch.Tensor]]:
    encoder = DeployedEncoder(MODEL, Precision.of(torch.float32, for_gpu=True))
    return [module_outputs(encoder, (sample.image,))[0] for sample in samples]


def by_name(ranges: Ranges) -> dict[str, TensorRange]:
    return {tensor.name: tensor for tensor in ranges.tensors}


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("encoder.stages.0.blocks.1.fc2/Add_2", "stages/0/blocks/1/fc2"),
        ("encoder.stages.3.blocks.0.fc1/Add", "stages/3/blocks/0/fc1"),
        ("encoder.stages.2.downsample.0/Conv", "stages/2/downsample/0"),
        ("encoder.l4_self_attn.layers.1.ffn/Add", "l4_self_attn/layers/1/ffn"),
    ],
)
def test_a_tensor_is_what_its_module_gives(
    ranges: Ranges, outputs: list[dict[str, torch.Tensor]], name: str, module: str
) -> None:
    tensor = by_name(ranges)[name]
    expected = np.concatenate([np.abs(output[module].numpy().ravel()) for output in outputs])
    assert tensor.largest == pytest.approx(expected.max(), rel=1e-4)
    assert tensor.count == expected.size
    assert tensor.beyond == 0
    assert ranges.outputs[f"encoder.{module.replace('/', '.')}"] == pytest.approx(expected.max(), rel=1e-4)


def test_tensors_inside_modules_are_seen(ranges: Ranges, outputs: list[dict[str, torch.Tensor]]) -> None:
    hidden = [torch.nn.functional.gelu(output["stages/1/blocks/0/fc1"]) for output in outputs]
    largest = max(float(x.abs().max()) for x in hidden)
    assert by_name(ranges)["encoder.stages.1.blocks.0/Gelu"].largest == pytest.approx(largest, rel=1e-4)
    weight = by_name(ranges)["encoder.stages.1.blocks.0.fc1/weight"]
    folded = DeployedEncoder(MODEL, Precision.of(torch.float32, for_gpu=True)).get_parameter(
        "stages.1.blocks.0.fc1.weight"
    )
    assert weight.largest == pytest.approx(float(folded.abs().max()), rel=1e-6)
    seen = by_name(ranges)
    assert {"decoder.b2.layers.0.ffn/Gelu", "decoder.b2.layers.0/Softmax", "decoder.b1/Gelu"} <= set(seen)


def test_float32_islands_are_not_seen(ranges: Ranges) -> None:
    islands = [
        tensor.name
        for tensor in ranges.tensors
        if (tensor.module.endswith(".grn") and tensor.operator not in ("Mul", "Cast"))
        or (tensor.module in ("encoder.normalisation", "decoder.head.w_r2") and tensor.operator != "Cast")
        or tensor.operator in ("Floor", "Exp", "Square", "Mean", "Sin", "Tanh")
    ]
    assert islands == []
    # B3b's last scores and softmax feed TopK and stay float32; its first layer's do not.
    names = set(by_name(ranges))
    assert "decoder.b3b.layers.0/Softmax" in names
    assert "decoder.b3b.layers.1/Softmax" not in names


def test_every_module_a_policy_may_name_has_an_output(ranges: Ranges) -> None:
    encoder = DeployedEncoder(MODEL, Precision.of(torch.float32, for_gpu=True))
    assert {f"encoder.{path}" for path in lowerable_modules(encoder)} <= set(ranges.outputs)


def test_shares_are_counted_over_all_samples() -> None:
    tensor = TensorRange("encoder.a", "Add")
    tensor.add(torch.tensor([0.0, 1.0, -7e4, 1e-5]))
    tensor.add(torch.tensor([6.2e-5, -6e-5, 65504.0, 65505.0]))
    assert tensor.largest == pytest.approx(7e4)
    assert (tensor.share_beyond, tensor.share_below) == (2 / 8, 2 / 7)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_beyond_every_range(value: float) -> None:
    tensor = TensorRange("encoder.a", "Add")
    tensor.add(torch.tensor([1.0, value]))
    tensor.add(torch.tensor([2.0, 3.0]))
    assert tensor.largest == math.inf
    assert tensor.share_beyond == 1 / 4


@pytest.mark.parametrize(
    ("module", "too_large", "cure"),
    [
        ("encoder.b.0.fc1", (), "encoder.b.0.fc1"),  # a product before its bias, say: the layer itself is enough
        ("encoder.b.0.fc1", ("encoder.b.0.fc1",), "encoder.b.0"),  # what it gives would be cast back and overflow
        ("encoder.b.0", (), "encoder.b.0"),
        ("encoder.b.0.fc1", ("encoder.b.0.fc1", "encoder.b.0"), None),  # what flows between modules
        ("encoder.b.01", (), None),
        ("encoder.neck", (), None),
    ],
)
def test_the_cure_is_the_smallest_module_whose_output_fits(
    module: str, too_large: tuple[str, ...], cure: str | None
) -> None:
    outputs = {name: 1e5 if name in too_large else 1.0 for name in ("encoder.b.0", "encoder.b.0.fc1")}
    tensor = TensorRange(module, "MatMul", largest=1e5)
    assert Ranges((tensor,), outputs).cure(tensor, 65504) == cure


def test_photos_are_what_the_runtime_would_see(photos: Path) -> None:
    samples = photos_of(photos, 50, seed=3)
    assert [sample.name for sample in samples] == ["room0.png", "room1.png"]
    shown = read_image(photos / "room1.png")
    letterbox = Letterbox.fit(160, 96, SIZE[1], SIZE[0])
    assert np.array_equal(samples[1].image[0].numpy(), letterbox.apply(shown))
    back = letterbox.to_image(samples[1].points[0].numpy())
    assert ((back >= -1e-3) & (back <= np.array([160, 96]) + 1e-3)).all()
    assert np.ptp(back, axis=0) == pytest.approx([160, 96], rel=0.15)
    again = photos_of(photos, 50, seed=3)
    assert torch.equal(samples[0].points, again[0].points)
    assert not torch.equal(samples[0].points, photos_of(photos, 50, seed=4)[0].points)
    assert [sample.name for sample in photos_of(photos, 1, most=1)] == ["room0.png"]
    fewer = photos_of(photos, 20, seed=3)
    assert torch.equal(fewer[1].points, samples[1].points[:, :20]), "the first points do not depend on their number"


def test_the_gates_own_images_are_calibrated_on() -> None:
    reference = make_reference(MODEL, *SIZE, 24, lambda share: None)
    samples = gate_samples(SIZE, 24)
    assert np.array_equal(np.concatenate([sample.image.numpy() for sample in samples]), reference.images)
    assert np.array_equal(np.concatenate([sample.points.numpy() for sample in samples]), reference.points)
