"""Made-up measurements."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spd.errors import InputError
from tools.bench.measure import Candidate, Measured
from tools.bench.report import Report
from tools.bench.rows import Row
from tools.bench.subject import ENCODE, Inputs, Subject, peak_mb

ABOUT: dict[str, Any] = {
    "preset": "tiny",
    "network": "tiny",
    "date": "2026-01-01 00:00 UTC",
    "command": "python -m tools.bench",
    "quick": False,
    "rounds": 3,
    "machine": {"cpu": "a processor", "cores": 2, "threads": 2, "gpus": [], "load_before": 0.0, "others": 0.01},
    "versions": {"python": "3.11"},
}


def measured(
    row: str,
    encode: Sequence[float],
    decode: dict[int, Sequence[float]] | None = None,
    size: tuple[int, int] = (480, 640),
) -> Measured:
    """Turns in milliseconds; an encoder of 2 GMAC, 10 MMAC per point."""
    turns = {ENCODE: list(encode), **{count: list(times) for count, times in (decode or {}).items()}}
    macs = {work: work * 10_000_000 or 2_000_000_000 for work in turns}
    candidate = Candidate(Row(*row.split("/")), *size, tuple(turns), macs, Subject, ())
    return Measured(candidate, turns, dict.fromkeys(turns, 100.0), 20.0)


def report(*rows: Measured, **more: Any) -> Report:
    counts = sorted({work for one in rows for work in one.turns if work != ENCODE})
    return Report(rows, more.get("skipped", ()), tuple(counts), ABOUT, more.get("notes", ()))


def some_inputs() -> Inputs:
    return Inputs(np.zeros((1, 160, 192, 3), np.uint8), np.zeros((1, 8, 2), np.float32), threads=1)


class Echo:
    """What a worker under test makes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def twice(self, number: int) -> int:
        return 2 * number

    def fail(self) -> None:
        raise ValueError("no\nsecond line")

    def refuse(self) -> None:
        raise InputError("this is not it")

    def die(self) -> None:
        sys.stderr.write("about to go\n")
        os._exit(7)

    def interrupt(self) -> str:
        """What Ctrl-C does to every process of a terminal."""
        os.kill(os.getpid(), signal.SIGINT)
        return "still here"


def make_nothing(path: Path) -> None:
    raise FileNotFoundError(f"{path} is not there")


def make_peaks(_path: Path) -> dict[str, float]:
    """Peak memory of a process before, while and after it has 64 MB more."""
    before = peak_mb()
    taken = np.ones(64_000_000, np.uint8)
    during = peak_mb()
    del taken
    return {"before": before, "during": during, "after": peak_mb()}


def make_facts(path: Path) -> dict[str, int]:
    return {path.name: 1}
