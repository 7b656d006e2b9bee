"""Progress of a build: TensorRT's nested phases as bars on a terminal, a line every few seconds otherwise.

TensorRT builds in a thread of its own. The main thread shows the phases and takes Ctrl-C, which only sets a flag: the
next `step_complete` answers False, TensorRT gives up, and nothing is torn down under its feet.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

LINE_SECONDS = 5.0
"""Time between two lines where there is no terminal."""
POLL_SECONDS = 0.1
"""Time between two looks at the phases, and so the longest that Ctrl-C goes unanswered."""

T = TypeVar("T")


@dataclass(frozen=True)
class Phase:
    """A phase of TensorRT's builder that has begun and not ended."""

    name: str
    depth: int
    """0 for the outermost."""
    done: int
    steps: int


class BuildState:
    """What TensorRT said of its progress, and whether to stop. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._phases: dict[str, Phase] = {}
        self._cancelled = threading.Event()

    @property
    def cancelled(self) -> bool:
        """Whether the build was told to stop."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Have TensorRT stop at its next step."""
        self._cancelled.set()

    def phases(self) -> list[Phase]:
        """The phases under way, outer ones before inner ones."""
        with self._lock:
            return list(self._phases.values())

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase begins; `parent` is the phase it belongs to, if any."""
        with self._lock:
            outer = self._phases.get(parent) if parent else None
            self._phases[name] = Phase(name, outer.depth + 1 if outer else 0, 0, steps)

    def step(self, name: str, step: int) -> bool:
        """A step, counted from 0, is done; False asks TensorRT to stop."""
        with self._lock:
            if name in self._phases:
                self._phases[name] = replace(self._phases[name], done=step + 1)
        return not self.cancelled

    def finish(self, name: str) -> None:
        """A phase ends, also when it was cancelled."""
        with self._lock:
            self._phases.pop(name, None)


def make_monitor(trt: Any, state: BuildState) -> Any:
    """A `tensorrt.IProgressMonitor` that tells `state`; keep it alive as long as the build runs."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc] # the base class is Any where TensorRT is not installed
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            state.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return state.step(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            state.finish(phase_name)

    return Monitor()


def watch(title: str, work: Callable[[], T], state: BuildState, console: Console) -> T:
    """Run a build in a thread and show its phases until it ends.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed, and TensorRT has stopped.
        Exception: whatever `work` raises.
    """
    view = _Bars(title, console) if console.is_terminal else _Lines(title, console)
    told = False
    with ThreadPoolExecutor(1, "tensorrt-build") as pool, view, on_interrupt(state.cancel):
        future = pool.submit(work)
        while not wait([future], timeout=POLL_SECONDS).done:
            view.show(state.phases())
            if state.cancelled and not told:
                console.print("Stopping: TensorRT ends at its next step.", highlight=False)
                told = True
    if state.cancelled:
        raise KeyboardInterrupt
    return future.result()


@contextmanager
def step(console: Console, name: str) -> Iterator[Callable[[float], None]]:
    """Run a step other than a build: a line, or on a terminal a bar that is told the share done."""
    if not console.is_terminal:
        console.print(name, highlight=False, soft_wrap=True)
        yield lambda share: None
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(20), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(name, total=None)
        yield lambda share: progress.update(task, total=1.0, completed=share)


@contextmanager
def on_interrupt(action: Callable[[], None]) -> Iterator[None]:
    """Do `action` at Ctrl-C instead of raising; only the main thread is told of it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGINT, lambda number, frame: action())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL if previous is None else previous)


class _Lines:
    """A line at the start and one every `LINE_SECONDS`."""

    def __init__(self, title: str, console: Console) -> None:
        self._title, self._console = title, console
        self._begin = self._last = time.monotonic()

    def __enter__(self) -> _Lines:
        self._console.print(self._title, highlight=False, soft_wrap=True, markup=False)
        return self

    def show(self, phases: list[Phase]) -> None:
        now = time.monotonic()
        if now - self._last < LINE_SECONDS:
            return
        self._last = now
        where = ", ".join(f"{phase.name} {phase.done}/{phase.steps}" for phase in phases) or "TensorRT reports no phase"
        line = f"{self._title}: {now - self._begin:.0f} s, {where}"
        self._console.print(line, highlight=False, soft_wrap=True, markup=False)

    def __exit__(self, *_: object) -> None:
        return


class _Bars:
    """A bar for the build and one, indented, for each phase under way."""

    def __init__(self, title: str, console: Console) -> None:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        self._progress = Progress(*columns, console=console, transient=True)
        self._progress.add_task(title, total=None)
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> _Bars:
        self._progress.start()
        return self

    def show(self, phases: list[Phase]) -> None:
        for name in self._tasks.keys() - {phase.name for phase in phases}:
            self._progress.remove_task(self._tasks.pop(name))
        for phase in phases:
            if phase.name not in self._tasks:
                text = "  " * (phase.depth + 1) + phase.name
                self._tasks[phase.name] = self._progress.add_task(text, total=phase.steps)
            self._progress.update(self._tasks[phase.name], completed=phase.done)

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
