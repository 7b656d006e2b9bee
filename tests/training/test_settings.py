"""What decides on a run: the paper's defaults, ranges, and reading back."""

import math
from dataclasses import replace
from typing import Any

import pytest

from spd.config import PRESETS
from spd.errors import InputError
from spd.training.settings import Settings
from spd.utils.losses import LAMBDA_VAR


def test_the_defaults_are_the_paper_s() -> None:
    """Table 7.3; the ends of the learning rates are 1e-4 to 1e-6 and 1e-5 for the backbone."""
    found = Settings()
    assert (found.batch, found.points, found.epochs, found.clip, found.weight_decay) == (8, 256, 30, 1.0, 0.01)
    assert (found.height, found.width, found.preset, found.network) == (480, 640, "tiny", "spd")
    assert found.lr == 1e-4
    assert found.lr * found.final_lr_scale == pytest.approx(1e-6)
    assert found.lr * found.encoder_lr_scale == pytest.approx(1e-5)
    assert found.config.dropout == 0.1
    assert found.lambda_var == LAMBDA_VAR == 0.5
    assert (found.edge_share, found.augment, found.ema, found.warmup) == (0.0, True, 0.0, 0)


def test_read_back() -> None:
    one = Settings(data="/nyu", preset="atto", max_steps=7, ema=0.99, edge_share=0.3, overfit=2, dropout=0.2)
    assert Settings.from_dict(one.as_dict()) == one
    assert one.config.as_dict() == {**PRESETS["atto"].as_dict(), "dropout": 0.2}


def test_of_another_version() -> None:
    """A field that is not known any more is dropped, one that was not known yet has its default."""
    values = {**Settings(batch=3).as_dict(), "dropped": 1}
    del values["edge_share"]
    assert Settings.from_dict(values) == Settings(batch=3)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("preset", "huge"),
        ("network", "dpt"),
        ("height", 100),
        ("width", 32),
        ("batch", 0),
        ("points", 0),
        ("epochs", 0),
        ("max_steps", 0),
        ("overfit", 0),
        ("val_images", 0),
        ("val_every", 0),
        ("log_every", 0),
        ("save_every", 0),
        ("lr", 0.0),
        ("lr", math.nan),
        ("lr", math.inf),
        ("clip", 0.0),
        ("dropout", 1.0),
        ("dropout", -0.1),
        ("encoder_lr_scale", -0.1),
        ("final_lr_scale", math.nan),
        ("warmup", -1),
        ("weight_decay", math.inf),
        ("seed", -1),
        ("seed", 2**32),
        ("edge_share", 1.1),
        ("lambda_var", 1.1),
        ("lambda_var", -0.1),
        ("ema", 1.0),
        ("ema", math.nan),
    ],
)
def test_out_of_range(name: str, value: Any) -> None:
    with pytest.raises(InputError) as caught:
        replace(Settings(height=32, width=640), **{name: value})
    assert str(value) in str(caught.value)
    assert "\n" not in str(caught.value)
