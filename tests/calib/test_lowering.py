"""The error of lowered modules, against the same arithmetic done by hand and against the exported float16 graphs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F
from calib_support import ATTO, OPTIONS, SIZE, silent

from calib.forms import FloatForm, outermost
from calib.lowering import DepthError, Lowering
from calib.samples import Sample, gate_samples
from export.evaluate import evaluate
from export.graphs import deployed
from spd.bundle.gate import Tolerance
from spd.errors import ExportError
from spd.models import seeded

MODEL = seeded(ATTO)
HALF = torch.float16


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return gate_samples(SIZE, 48)


@pytest.fixture(scope="module")
def lowering(samples: list[Sample]) -> Lowering:
    return Lowering(FloatForm(MODEL, HALF, OPTIONS), samples)


@pytest.fixture(scope="module")
def exact(samples: list[Sample]) -> list[torch.Tensor]:
    encoder, decoder = deployed(MODEL, torch.float32, OPTIONS, for_gpu=True)
    with torch.inference_mode():
        return [decoder(*encoder(sample.image), sample.points)[0] for sample in samples]


def error_of(got: list[torch.Tensor], expected: list[torch.Tensor]) -> tuple[float, float]:
    errors = [np.abs(g.numpy().astype(np.float64) / e.numpy() - 1) for g, e in zip(got, expected, strict=True)]
    return max(e.max() for e in errors), max(e.mean() for e in errors)


def test_a_layer_alone_is_that_layer_rounded_to_float16(
    lowering: Lowering, samples: list[Sample], exact: list[torch.Tensor]
) -> None:
    encoder, decoder = deployed(MODEL, torch.float32, OPTIONS, for_gpu=True)
    layer = decoder.head.w_r1

    def rounded(x: torch.Tensor) -> torch.Tensor:
        product = (x.half().float() @ layer.weight.half().float()).half()
        return (product.float() + layer.bias.half().float()).half().float()  # type: ignore[union-attr]

    got = []
    with torch.inference_mode():
        for sample in samples:
            seen: list[torch.Tensor] = []
            with layer.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.extend(inputs)):
                decoder(*encoder(sample.image), sample.points)
            got.append(decoder.head.w_r2(F.gelu(rounded(seen[0]))).squeeze(-1).exp())
    largest, mean = error_of(got, exact)
    error = lowering.alone("decoder.head.w_r1", (), len(samples))
    assert error.max == pytest.approx(largest, rel=1e-2)
    assert error.mean == pytest.approx(mean, rel=1e-2)
    assert 1e-6 < error.mean < 1e-3


def test_the_whole_in_float16_is_the_exported_graph(
    lowering: Lowering, samples: list[Sample], exact: list[torch.Tensor], exported: Path
) -> None:
    encoder, decoder = (ir.load(exported / f"{graph}.fp16.onnx") for graph in ("encoder", "decoder"))
    got = [
        evaluate(decoder, {**evaluate(encoder, {"image": sample.image}), "points": sample.points})["depth"]
        for sample in samples
    ]
    largest, mean = error_of(got, exact)
    error = lowering.whole((), silent)
    assert error.max == pytest.approx(largest, rel=0.5)
    assert error.mean == pytest.approx(mean, rel=0.1)


def test_one_by_one_is_as_each_alone(lowering: Lowering) -> None:
    errors = lowering.each_alone((), 1, silent)
    assert set(errors) == set(lowering.units)
    # First, middle and last of the encoder, whose predecessors are remembered, and one of the decoder.
    for unit in ("encoder.stem.0", "encoder.l3_self_attn.layers.0", "encoder.precompute.l4", "decoder.b2.layers.0"):
        assert errors[unit] == lowering.alone(unit, (), 1), unit
    assert all(0 < error.mean <= error.max < 2e-2 for error in errors.values())


def test_nothing_is_left_lowered(lowering: Lowering, samples: list[Sample]) -> None:
    lowering.alone("encoder.stages.0.blocks.0", (), 1)
    again = Lowering(FloatForm(MODEL, HALF, OPTIONS), samples)
    everything = lowering.whole(lowering.units, silent)
    assert again.whole(lowering.units, silent) == everything
    # Not which is smaller: the cache and what lies between the modules stay float16, and decide both.
    assert lowering.whole((), silent) != everything
    assert again.alone("decoder.head.w_r1", (), 1) == lowering.alone("decoder.head.w_r1", (), 1)


def test_units_are_the_outermost_modules_in_the_graphs_dtype(lowering: Lowering) -> None:
    assert "encoder.stages.0.blocks.0" in lowering.units
    assert "encoder.stages.0.blocks.0.grn" not in lowering.units
    assert "encoder.stages.0.blocks.0.grn" in lowering.lowerable
    assert "decoder.head.w_r2" not in lowering.lowerable, "the head's last layer is float32 in every graph"
    assert set(lowering.inside("decoder.b2.layers.0")) == {
        f"decoder.b2.layers.0.{inner}" for inner in ("w_q", "w_o", "ffn", "ffn.fc1", "ffn.fc2")
    }
    assert lowering.inside("decoder.b2.layers.0")[-1].endswith(".ffn"), "the largest comes last"


def test_a_module_kept_inside_a_lowered_one_helps(lowering: Lowering) -> None:
    unit = "decoder.b2.layers.0"
    alone = lowering.alone(unit, (), 1)
    kept = lowering.alone(unit, lowering.inside(unit), 1)
    assert 0 < kept.mean < alone.mean


def test_outermost() -> None:
    assert outermost(["a.b", "a.b.c", "a.bc", "d.e.f", "d.e"]) == ["a.b", "a.bc", "d.e"]


def test_an_error_that_is_not_a_number_is_never_within() -> None:
    assert DepthError(0.02, 0.002).within(Tolerance(0.02, 0.002))
    assert not DepthError(0.021, 0.002).within(Tolerance(0.02, 0.002))
    assert not DepthError(float("inf"), float("inf")).within(Tolerance(1e30, 1e30))
    assert DepthError.worst([DepthError(1, 0.5), DepthError(2, 0.1)]) == DepthError(2, 0.5)


def test_a_network_that_fails_in_float32_is_refused(samples: list[Sample]) -> None:
    broken = seeded(ATTO)
    with torch.no_grad():
        broken.b5.w_r2.bias.fill_(1e4)
    with pytest.raises(ExportError, match=r"rendered room of the parity gate: .* not finite in float32 either"):
        Lowering(FloatForm(broken, HALF, OPTIONS), samples)
