"""What a query costs beside the backend's work: counted in calls, as times differ from machine to machine."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from spd.runtime import Model
from tools.overhead import Instant, main


def calls(work: Callable[[], object]) -> int:
    """Functions of Python and of C that some work calls, ufuncs and operators of arrays not counted."""
    counted = 0

    def count(_: Any, event: str, __: Any) -> None:
        nonlocal counted
        counted += event in ("call", "c_call")

    work()
    before = sys.getprofile()
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(before)
    return counted


@pytest.mark.parametrize(
    ("size", "count", "check", "most"),
    [
        ((480, 640), 1, True, 38),
        ((480, 640), 4096, True, 38),
        ((480, 640), 1, False, 34),
        ((900, 1600), 1, True, 38),
        ((900, 1600), 4096, True, 38),
    ],
)
def test_a_query_makes_few_calls(size: tuple[int, int], count: int, check: bool, most: int) -> None:
    """They were 66 when a query took 22 us at K = 1, and are as many for 4,096 points as for one."""
    scene = Model(Instant(), None, []).encode(np.zeros((*size, 3), np.uint8))
    points = np.random.default_rng(0).random((count, 2)) * 400
    assert calls(lambda: scene.depth(points, check=check)) <= most


def test_the_measurement_runs(capsys: pytest.CaptureFixture[str]) -> None:
    main(times=2)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 * (1 + 2 * 4)
    assert all(0 < float(line.split()[-2]) <= float(line.split()[-1]) for line in lines)
