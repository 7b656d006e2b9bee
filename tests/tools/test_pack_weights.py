"""Weights in half the size."""

from pathlib import Path

import torch
from click.testing import CliRunner

from spd.checkpoint import load_checkpoint, save_checkpoint
from spd.config import PRESETS
from spd.models import seeded
from tools.pack_weights import main


def test_packed_weights_are_the_average_rounded_to_float16(tmp_path: Path) -> None:
    model, average = seeded(PRESETS["atto"], 1), seeded(PRESETS["atto"], 2)
    save_checkpoint(tmp_path / "model.pt", model, PRESETS["atto"], size=(192, 256), ema=average.state_dict())
    done = CliRunner().invoke(main, [str(tmp_path / "model.pt"), str(tmp_path / "packed.safetensors")])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "packed.safetensors").stat().st_size < 15_000_000
    checkpoint = load_checkpoint(tmp_path / "packed.safetensors")
    assert checkpoint.size == (192, 256)
    packed = checkpoint.model.state_dict()
    for name, weight in average.state_dict().items():
        torch.testing.assert_close(packed[name], weight.half().float(), rtol=0, atol=0)


def test_another_suffix_is_refused_before_any_work(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["missing.pt", str(tmp_path / "packed.pt")])
    assert done.exit_code == 2
    assert "expected .safetensors" in done.output
