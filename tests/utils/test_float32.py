"""References compute in float32 itself, whatever the process has allowed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spd.checkpoint import save_checkpoint
from spd.config import PRESETS
from spd.models import SPD, seeded
from spd.runtime.torch_model import TorchBackend
from spd.utils.float32 import true_float32

BACKENDS: Any = torch.backends
SETTINGS = (BACKENDS.cuda.matmul, BACKENDS.cudnn.conv, BACKENDS.mkldnn.matmul, BACKENDS.mkldnn.conv)


def settings() -> list[str]:
    return [setting.fp32_precision for setting in SETTINGS]


@pytest.fixture
def tf32_allowed() -> Iterator[None]:
    before = settings()
    for setting in SETTINGS[:2]:
        setting.fp32_precision = "tf32"
    yield
    for setting, precision in zip(SETTINGS, before, strict=True):
        setting.fp32_precision = precision


def test_products_and_convolutions_are_float32_inside_and_as_before_after(tf32_allowed: None) -> None:
    before = settings()
    assert before[:2] == ["tf32", "tf32"]
    inside = []

    def compute() -> None:
        with true_float32():
            inside.append(settings())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        compute()
    assert inside == [["ieee"] * 4]
    assert settings() == before


def test_the_torch_backend_computes_in_it(tf32_allowed: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    encode, decode = SPD.encode, SPD.decode
    monkeypatch.setattr(SPD, "encode", lambda self, image: seen.append(settings()) or encode(self, image))
    monkeypatch.setattr(SPD, "decode", lambda self, *args: seen.append(settings()) or decode(self, *args))
    config = PRESETS["atto"]
    save_checkpoint(tmp_path / "model.pt", seeded(config), config)
    backend = TorchBackend(tmp_path / "model.pt", (160, 192))
    cache = backend.encode(np.zeros((1, 160, 192, 3), np.uint8))
    backend.decode(cache, np.full((1, 2, 2), 40, np.float32))
    assert seen == [["ieee"] * 4] * 2
    assert settings()[:2] == ["tf32", "tf32"]
