"""What several tests of export/ share: the command, the literal model in float64, and a float64 relative error."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from torch import Tensor

from export.cli import main
from export.layers import Precision
from spd.config import PRESETS
from spd.models import SPD, seeded

HEIGHT, WIDTH = 160, 192  # 30 L4 cells, so that choosing 20 of them is a choice
ATTO = PRESETS["atto"]
EXACT = Precision.of(torch.float64)
EXACT_GPU = Precision(torch.float64, torch.float64, for_gpu=True)
EXACT_8_BITS = Precision(torch.float64, torch.float64, for_gpu=True, constant_weights=True)
FORMS = (
    pytest.param(EXACT, id="cpu"),
    pytest.param(replace(EXACT, constant_weights=True), id="cpu, 8 bits"),
    pytest.param(EXACT_GPU, id="gpu"),
    pytest.param(EXACT_8_BITS, id="gpu, 8 bits"),
)
"""The forms of the deployed network, all in float64."""

NAME = f"atto-{HEIGHT}x{WIDTH}"
SIZE = ("--size", f"{HEIGHT}x{WIDTH}", "--max-points", "512", "--with-routes")
QUICK = ("--seed-checkpoint", "atto", *SIZE, "--precision", "fp32")


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def refused(result: Result, exit_code: int, *fragments: str) -> None:
    """The command failed as spd.commands.cli says: one line of error, no traceback, nothing on stdout."""
    assert result.exit_code == exit_code, result.output
    assert isinstance(result.exception, SystemExit)
    assert not result.stdout
    assert "Traceback" not in result.stderr
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1
    assert result.stderr.endswith(f"{errors[0]}\n"), "the error is more than one line"
    for fragment in fragments:
        assert fragment in errors[0]


def contents(folder: Path) -> dict[str, str]:
    """The hash of every file below a folder, and every empty folder."""
    return {
        path.relative_to(folder).as_posix(): sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in folder.rglob("*")
        if path.is_file() or not any(path.iterdir())
    }


@cache
def literal() -> SPD:
    """Untrained atto in float32, the one in the `exported` bundle; do not write to it."""
    return seeded(ATTO).requires_grad_(False)


@cache
def literal64() -> SPD:
    """The same in float64; do not write to it."""
    return seeded(ATTO).double().requires_grad_(False)


def relative(got: Tensor, want: Tensor) -> float:
    """Largest difference over the largest magnitude."""
    assert got.shape == want.shape
    assert want.numel()
    return float((got.double() - want.double()).abs().max() / want.double().abs().max())


def random64(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    """Normal numbers, float64, the same for the same seed."""
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
