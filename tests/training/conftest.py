"""What several tests of training share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import Tensor

from spd.training import loop
from spd.utils.losses import silog


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[Tensor], Tensor]], None]:
    """Have something done to the loss of a step, counted from 1."""

    def register(step: int, change: Callable[[Tensor], Tensor]) -> None:
        calls = iter(range(1, 1000))
        monkeypatch.setattr(
            loop, "silog", lambda *given: change(silog(*given)) if next(calls) == step else silog(*given)
        )

    return register
