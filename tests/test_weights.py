"""The demo model that the project ships."""

from pathlib import Path

import pytest

import spd
from spd.checkpoint import load_checkpoint
from spd.config import PRESETS
from spd.data.rooms import RoomPairs
from spd.evaluation import Settings, evaluate
from tools.rgbd_samples import RgbdSamples
from tools.zero_shot import VerticalGradient, abs_rel

WEIGHTS = Path(spd.__file__).parent / "weights" / "atto_rooms.safetensors"
ROOMS = 12


@pytest.fixture(scope="module")
def model() -> spd.Model:
    return spd.load(WEIGHTS)


@pytest.fixture(scope="module")
def gradient() -> VerticalGradient:
    return VerticalGradient.fitted(100)


def test_it_is_a_small_file_of_the_whole_network() -> None:
    assert WEIGHTS.stat().st_size <= 15_000_000
    checkpoint = load_checkpoint(WEIGHTS)
    assert (checkpoint.config, checkpoint.size) == (PRESETS["atto"], (192, 256))


@pytest.mark.parametrize("median_scale", [False, True])
def test_rooms_it_never_saw_are_read_far_better_than_blindly(
    model: spd.Model, gradient: VerticalGradient, median_scale: bool
) -> None:
    settings = Settings(ks=(256,), dense=False, median_scale=median_scale)
    seen, blind = (
        evaluate(predictor, RoomPairs(256, 320, test=True), settings, limit=ROOMS).by_k["256"].abs_rel
        for predictor in (model, gradient)
    )
    assert seen < 0.75 * blind


def test_real_photos_are_read_better_than_blindly(model: spd.Model, gradient: VerticalGradient, samples: Path) -> None:
    """Median-scaled, so that 2.5 m everywhere is the image's true median."""
    pairs = RgbdSamples(samples)
    seen, gradual, constant = (
        abs_rel(predictor, pairs, median_scale=True, points=1000)
        for predictor in (model, gradient, VerticalGradient(0.0))
    )
    assert seen < min(gradual, constant)
