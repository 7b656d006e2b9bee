"""What a run says while it runs: metrics.csv, TensorBoard, and a progress bar or, off a terminal, lines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from spd.commands.cli import note
from spd.training.metrics_file import MetricsFile

TENSORBOARD = "tensorboard"

SKIPPED_SHOWN = 20
"""Broken pairs that are named one by one; the rest is counted."""


class Log:
    """Writes for one process; the others are silent. Use it in a `with`."""

    def __init__(self, folder: Path, steps: int, start: int) -> None:
        """Go on after step `start` of `steps`; what was written of later steps is dropped, as those were lost."""
        self._steps = steps
        self._metrics = MetricsFile(folder, start, note)
        self._writer = SummaryWriter(str(folder / TENSORBOARD), purge_step=start + 1)
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[state]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._lines = not console.is_terminal
        self._task = self._bar.add_task("training", total=steps, completed=start, state="")
        self._loss = self._abs_rel = ""

    def __enter__(self) -> Log:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        self._writer.close()

    def step(self, step: int) -> None:
        """Move the bar to `step`."""
        self._bar.update(self._task, completed=step)

    def row(self, step: int, values: Mapping[str, float]) -> None:
        """Record values of some of the `COLUMNS` of metrics.csv."""
        self._metrics.append(step, values)
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        if "loss" in values:
            self._loss = f"loss {values['loss']:.4f}  {values['images_per_s']:.1f} images/s"
        if "abs_rel" in values:
            self._abs_rel = f"AbsRel {values['abs_rel']:.4f}"
            if self._lines:
                note(f"step {step:,} of {self._steps:,}: {self._abs_rel}  {self._loss}")
        self._bar.update(self._task, completed=step, state=f"{self._loss}  {self._abs_rel}")

    def say(self, message: str) -> None:
        """Print a line above the bar."""
        if self._lines:
            note(message)
        else:
            self._bar.console.print(message, markup=False, highlight=False, soft_wrap=True)

    def flush(self) -> None:
        """Write what TensorBoard's writer holds back for up to two minutes."""
        self._writer.flush()


class Skipped:
    """Counts the pairs that cannot be used, and names each of them once."""

    def __init__(self, say: Callable[[str], None]) -> None:
        """`say` prints a line."""
        self._say = say
        self._named: set[str] = set()
        self._count = 0

    def count(self, reasons: Iterable[str]) -> None:
        """Count and name."""
        for reason in reasons:
            self._count += 1
            self.name([reason])

    def name(self, reasons: Iterable[str]) -> None:
        """Name only."""
        for reason in reasons:
            if reason not in self._named and len(self._named) < SKIPPED_SHOWN:
                self._named.add(reason)
                self._say(f"skipped: {reason}")

    def take(self) -> int:
        """How many were counted since the last time."""
        count, self._count = self._count, 0
        return count
