"""Progress of a long command: named phases, a bar on a terminal, plain lines otherwise."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


class Phases:
    """Reports phases to a console. `with phases("tracing fp16") as tick:`, then `tick(share done)` if it is known."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since the first phase could begin."""
        return time.monotonic() - self._start

    @contextmanager
    def __call__(self, name: str) -> Iterator[Callable[[float], None]]:
        """Run one phase."""
        if not self._console.is_terminal:
            self._console.print(f"{self.seconds:6.1f} s  {name}", highlight=False, soft_wrap=True)
            yield lambda share: None
            return
        start = time.monotonic()
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(20), TimeElapsedColumn())
        with Progress(*columns, console=self._console, transient=True) as progress:
            task = progress.add_task(name, total=None)

            def tick(share: float) -> None:
                progress.update(task, total=1.0, completed=share)

            yield tick
        self._console.print(f"[green]✓[/] {name} [dim]{time.monotonic() - start:.1f} s[/]", highlight=False)
