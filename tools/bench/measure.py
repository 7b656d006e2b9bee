"""The rounds: every row of a size takes its turn, round after round."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from tools.bench.rows import Row
from tools.bench.subject import Subject
from tools.bench.worker import Worker, WorkerError

SETTLE_SECONDS = 0.1
"""Pause before a turn: ONNX Runtime's threads spin for 40 ms of processor time after a call, others for less."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """Something that can be tried: a row at a size, for a batch."""

    row: Row
    height: int
    """Pixels."""
    width: int
    """Pixels."""
    works: tuple[int, ...]
    """What it is asked to do: `ENCODE`, or K."""
    macs: Mapping[int, int]
    """Multiply-accumulates of each work."""
    make: Callable[..., Subject]
    """Makes the subject in a process of its own; a function or class at the top of a module."""
    args: tuple[Any, ...]
    """For `make`."""
    batch: int = 1
    """B."""

    @property
    def size(self) -> str:
        """Height and width, such as 480x640."""
        return f"{self.height}x{self.width}"


@dataclass(eq=False)
class Measured:
    """What a candidate took."""

    of: Candidate
    turns: dict[int, list[float]]
    """Milliseconds of each round, by work."""
    peak_mb: dict[int, float] = field(default_factory=dict)
    """Peak memory of the process after each work, in ascending order of K; megabytes."""
    scene_mb: float | None = None
    """Memory that is kept for a scene, megabytes."""

    @property
    def row(self) -> Row:
        """What was measured."""
        return self.of.row


@dataclass(frozen=True)
class Skipped:
    """A row that was not measured."""

    row: str
    """As `Row` writes itself."""
    size: str
    """Height and width, such as 480x640."""
    reason: str


Say = Callable[[str], None]


def measure(candidates: Sequence[Candidate], rounds: int, say: Say) -> tuple[list[Measured], list[Skipped]]:
    """Measure candidates against each other.

    Args:
        candidates: in the order of their turns.
        rounds: how often everything is done.
        say: is told what happens.

    Returns:
        What was measured, and what could not be, and why.
    """
    workers: list[tuple[Measured, Worker]] = []
    skipped: list[Skipped] = []
    with ExitStack() as closing:
        for candidate in candidates:
            say(f"loading {candidate.row} at {candidate.size}")
            measured = Measured(candidate, {work: [] for work in candidate.works})
            worker = closing.enter_context(Worker(candidate.make, *candidate.args))
            try:
                worker.made()
                for work in sorted(candidate.works):
                    measured.peak_mb[work] = worker.call("prepare", work)
                measured.scene_mb = worker.call("kept_mb")
            except WorkerError as error:
                worker.close()
                skipped.append(Skipped(str(candidate.row), candidate.size, str(error)))
            else:
                workers.append((measured, worker))
        for number in range(rounds if workers else 0):
            say(f"round {number + 1} of {rounds}, {' '.join(dict.fromkeys(one.of.size for one, _ in workers))}")
            # Forth and back: a drift favours none.
            _round(workers[:: 1 if number % 2 == 0 else -1], workers, skipped)
    return [measured for measured, _ in workers], skipped


def _round(
    order: Sequence[tuple[Measured, Worker]], workers: list[tuple[Measured, Worker]], skipped: list[Skipped]
) -> None:
    """A turn for each work of each; one whose process fails goes from `workers` to `skipped`."""
    for work in sorted({work for measured, _ in order for work in measured.turns}):
        for measured, worker in order:
            if work not in measured.turns or (measured, worker) not in workers:
                continue
            time.sleep(SETTLE_SECONDS)
            try:
                measured.turns[work].append(worker.call("turn", work))
            except WorkerError as error:
                workers.remove((measured, worker))
                skipped.append(Skipped(str(measured.row), measured.of.size, str(error)))
