"""Progress of a build: TensorRT's nested phases, told to the command's own progress, and Ctrl-C.

TensorRT builds in another thread. The main thread shows the phases and takes Ctrl-C. That only sets a flag: the next
`step_complete` answers False, and TensorRT ends by itself.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from spd.commands.progress import Phases

POLL_SECONDS = 0.1
"""Time between two looks at the phases, and so the longest that Ctrl-C goes unanswered."""

T = TypeVar("T")


@dataclass(frozen=True)
class Phase:
    """A phase of TensorRT's builder that has begun and not ended."""

    name: str
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

    def start(self, name: str, steps: int) -> None:
        """A phase begins, inside those that are under way."""
        with self._lock:
            self._phases[name] = Phase(name, 0, steps)

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
            state.start(phase_name, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return state.step(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            state.finish(phase_name)

    return Monitor()


def watch(title: str, work: Callable[[], T], state: BuildState, phases: Phases) -> T:
    """Run a build in a thread and show TensorRT's phases until it ends.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed, and TensorRT has stopped.
        Exception: whatever `work` raises.
    """
    told = False
    with ThreadPoolExecutor(1, "tensorrt-build") as pool, phases(title) as shown, on_interrupt(state.cancel):
        future = pool.submit(work)
        while not wait([future], timeout=POLL_SECONDS).done:
            found = state.phases()
            outermost = found[0].done / found[0].steps if found and found[0].steps else None
            shown(outermost, ", ".join(f"{phase.name} {phase.done}/{phase.steps}" for phase in found))
            if state.cancelled and not told:
                phases.say("Stopping: TensorRT ends at its next step.")
                told = True
        if state.cancelled:
            raise KeyboardInterrupt
        return future.result()


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
