"""Progress of a long command: a bar for each phase on a terminal, lines elsewhere, and never a long silence.

phases = Phases(Console(stderr=True))
with phases("tracing fp16"):
...
with phases("verifying fp16") as phase:
phase(0.25)  # the share done
with phases("evaluating", total=654, unit="images") as phase:
phase(12)  # how many are done
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

LINE_SECONDS = 5.0
"""Time between two lines of a phase where there is no terminal."""


class Phase:
    """A phase under way. Call it to say how far it is; it may be called as often as you like, from any thread."""

    def __init__(self, name: str, total: int | None, unit: str) -> None:
        self.name, self._total, self._unit = name, total, unit
        self._begin = time.monotonic()
        self._done: float | None = None
        self._detail = ""
        self.on_change: Callable[[], None] | None = None
        """Called after every call."""

    def __call__(self, done: float | None, detail: str = "") -> None:
        """Say how far it is.

        Args:
            done: how many of the total are done, or without a total the share done, 0 to 1; None if nobody knows.
            detail: what it is at.
        """
        self._done, self._detail = done, detail
        if self.on_change is not None:
            self.on_change()

    @property
    def seconds(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self._begin

    @property
    def share(self) -> float | None:
        """Share done, 0 to 1, if it is known."""
        if self._done is None or self._total == 0:
            return None
        return self._done if self._total is None else self._done / self._total

    @property
    def left(self) -> str:
        """Such as `about 40 s left`, at the rate up to now; empty if nobody knows."""
        return f"about {self.seconds * (1 / self.share - 1):.0f} s left" if self.share else ""

    @property
    def state(self) -> str:
        """Such as `25%`, or `12 of 654 images, 3.1 a second`; empty if nobody said."""
        parts = [self._detail] if self._detail else []
        if self._done is not None and self._total is None:
            parts.insert(0, f"{self._done:.0%}")
        elif self._done is not None:
            parts.insert(0, f"{self._done:.0f} of {self._total} {self._unit}".rstrip())
            if self._done:
                parts.insert(1, f"{self._done / max(self.seconds, 1e-3):.3g} a second")
        return ", ".join(parts)


class Phases:
    """Reports the phases of one command to a console, one after the other."""

    def __init__(self, console: Console, *, live: bool = True) -> None:
        """Take the time from now on.

        Args:
            console: on stderr; stdout is for results.
            live: draw bars on a terminal. False where drawing would disturb what is measured: then there are lines.
        """
        self._console, self._live = console, live and console.is_terminal
        self._begin = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since the first phase could begin."""
        return time.monotonic() - self._begin

    def say(self, message: str) -> None:
        """Print a line, above the bar if there is one."""
        self._console.print(message, highlight=False, soft_wrap=True, markup=False)

    @contextmanager
    def __call__(self, name: str, total: int | None = None, unit: str = "") -> Iterator[Phase]:
        """Run one phase.

        Args:
            name: what is done.
            total: how many things there are to do, if they are counted.
            unit: what these are, in the plural.
        """
        phase = Phase(name, total, unit)
        view: AbstractContextManager[None] = self._bar(phase, total is not None) if self._live else self._lines(phase)
        with view:
            yield phase

    @contextmanager
    def _lines(self, phase: Phase) -> Iterator[None]:
        """A line now and one every `LINE_SECONDS`."""
        ended = threading.Event()

        def repeat() -> None:
            while not ended.wait(LINE_SECONDS):
                state = ", ".join(filter(None, (f"{phase.seconds:.0f} s", phase.state, phase.left)))
                self.say(f"{self.seconds:6.1f} s  {phase.name}: {state}")

        self.say(f"{self.seconds:6.1f} s  {phase.name}")
        thread = threading.Thread(target=repeat, name="spd-progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    @contextmanager
    def _bar(self, phase: Phase, counted: bool) -> Iterator[None]:
        """A bar, and when the phase has succeeded a line in its place."""
        columns: list[ProgressColumn] = [SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(20)]
        columns += [TextColumn("{task.fields[state]}", markup=False), TimeElapsedColumn()]
        columns += [TimeRemainingColumn()] if counted else []
        with Progress(*columns, console=self._console, transient=True) as progress:
            task = progress.add_task(phase.name, total=None, state="")

            def show() -> None:
                share = phase.share
                total = None if share is None else 1.0
                progress.update(task, total=total, completed=share or 0.0, state=phase.state)

            phase.on_change = show
            yield
        line = Text.assemble(("✓", "green"), f" {phase.name} ", (f"{phase.seconds:.1f} s", "dim"))
        self._console.print(line, soft_wrap=True)
