"""True float32 is set within, and what was set before comes back, in whichever of torch's ways it was set."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import spd
from export.reference import make_reference
from spd.baselines.depth_anything import DenseScene, DepthAnything
from spd.models import SPD
from spd.runtime.torch_model import TorchBackend
from spd.utils.exact import true_float32

WEIGHTS = Path(spd.__file__).parent / "weights" / "atto_rooms.safetensors"


def precisions() -> list[str]:
    """Of matrix products and convolutions, on GPUs and on CPUs."""
    cuda, cudnn, mkldnn = torch.backends.cuda, torch.backends.cudnn, torch.backends.mkldnn
    operations: list[Any] = [cuda.matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv]
    return [operation.fp32_precision for operation in operations]


def test_flags_are_set_within_and_restored() -> None:
    before = precisions()
    assert "tf32" in before, "torch's default for cuDNN, without which there is nothing to do"
    with true_float32():
        assert precisions() == ["ieee"] * 5
        with true_float32():
            pass
        assert precisions() == ["ieee"] * 5
    assert precisions() == before
    with pytest.raises(KeyError), true_float32():
        raise KeyError
    assert precisions() == before
    assert torch.backends.cudnn.allow_tf32  # which fails where torch's two ways to say it differ


CHOICES = """
torch.set_float32_matmul_precision("high")
torch.set_float32_matmul_precision("medium")
torch.backends.cuda.matmul.allow_tf32 = True; torch.backends.cudnn.allow_tf32 = False
torch.backends.fp32_precision = "tf32"
torch.backends.cuda.matmul.fp32_precision = "tf32"
"""
CHOOSE = """
import os, warnings
warnings.simplefilter("error")
import torch
from spd.utils.exact import true_float32

def precisions():
    backends = torch.backends
    operations = backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn, backends.mkldnn.matmul
    return [operation.fp32_precision for operation in operations]

untouched = precisions()
"""


def test_what_an_application_chose_comes_back() -> None:
    """In processes of their own: torch cannot be brought back to where nothing was chosen."""
    code = CHOOSE
    for choice in CHOICES.strip().splitlines():
        code += (
            "child = os.fork()\n"
            "if not child:\n"
            f"    {choice}\n"
            "    before = precisions()\n"
            "    assert before != untouched\n"
            "    with true_float32(): assert precisions() == ['ieee'] * 4\n"
            "    assert precisions() == before, (before, precisions())\n"
            "    os._exit(0)\n"
            f"assert os.waitpid(child, 0)[1] == 0, {choice!r}\n"
        )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(spd.__file__).parents[1])


def test_the_last_thread_restores_them() -> None:
    before = precisions()
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with true_float32():
            entered.set()
            leave.wait()

    thread = threading.Thread(target=other)
    with true_float32():
        thread.start()
        entered.wait()
    assert precisions() == ["ieee"] * 5
    leave.set()
    thread.join()
    assert precisions() == before


def noted(monkeypatch: pytest.MonkeyPatch, kind: Any, *names: str) -> list[list[str]]:
    """What precisions the methods of a class find."""
    seen: list[list[str]] = []

    def noting(own: Callable[..., Any]) -> Callable[..., Any]:
        def method(*given: Any, **options: Any) -> Any:
            seen.append(precisions())
            return own(*given, **options)

        return method

    for name in names:
        monkeypatch.setattr(kind, name, noting(getattr(kind, name)))
    return seen


def test_references_compute_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = noted(monkeypatch, SPD, "encode", "decode")
    backend = TorchBackend(WEIGHTS, (128, 160))
    cache = backend.encode(np.zeros((1, 128, 160, 3), np.uint8))
    backend.decode(cache, np.ones((1, 2, 2), np.float32))
    make_reference(backend._model.cpu(), 128, 160, 4, lambda _: None)  # type: ignore[arg-type]
    assert seen == [["ieee"] * 5] * 4


class Dense(nn.Module):
    """A network that predicts the mean colour, with what else Depth Anything has."""

    dtype = torch.float32

    def __init__(self) -> None:
        super().__init__()
        self.config = type("Config", (), {"depth_estimation_type": "metric"})

    def forward(self, image: torch.Tensor) -> Any:
        return type("Prediction", (), {"predicted_depth": image.mean(dim=1)})


def test_depth_anything_computes_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = noted(monkeypatch, Dense, "forward")
    model: Any = Dense()
    scene = DepthAnything(model, "dense", 28).encode(np.zeros((28, 28, 3), np.uint8))
    assert isinstance(scene, DenseScene)
    assert seen == [["ieee"] * 5]
