"""Progress of a build, told the way TensorRT tells it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

from stand_ins.machine import current


class IProfiler:
    """Base of profilers; a subclass must call `__init__`."""

    def __init__(self) -> None:
        self._made = True

    def report_layer_time(self, layer_name: str, ms: float) -> None:
        """A layer has run, in milliseconds."""
        raise RuntimeError('Tried to call pure virtual function "IProfiler::report_layer_time"')


class IProgressMonitor:
    """Base of progress monitors; a subclass must call `__init__`."""

    def __init__(self) -> None:
        self._made = True

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        """A phase begins; the outermost has no parent."""
        raise RuntimeError('Tried to call pure virtual function "IProgressMonitor::phase_start"')

    def step_complete(self, phase_name: str, step: int) -> bool:
        """A step of a phase is done; False ends the build."""
        raise RuntimeError('Tried to call pure virtual function "IProgressMonitor::step_complete"')

    def phase_finish(self, phase_name: str) -> None:
        """A phase ends, perhaps before all of its steps."""
        raise RuntimeError('Tried to call pure virtual function "IProgressMonitor::phase_finish"')


class Cancelled(Exception):  # noqa: N818 - not an error
    """The monitor ended the build."""


class Progress:
    """Calls the monitor: nested phases, some of them from another thread, exceptions as a wish to end the build."""

    def __init__(self, monitor: IProgressMonitor | None) -> None:
        self._monitor = monitor

    def phase(self, name: str, parent: str | None, steps: list[Callable[[], None]]) -> None:
        """Run the steps of a phase.

        Raises:
            Cancelled: the monitor said so.
        """
        self._tell("phase_start", name, parent, len(steps))
        try:
            for number, step in enumerate(steps):
                step()
                hook = current().on_build_step
                if hook is not None:
                    hook(name, number)
                if self._monitor is not None and not self._tell("step_complete", name, number):
                    raise Cancelled
        finally:
            self._tell("phase_finish", name)

    def in_a_thread(self, run: Callable[[], None]) -> None:
        """Run something in a thread of TensorRT's own.

        A signal that Python raises meanwhile is heard, as in the real thing, in the next callback: it ends the build.
        """
        failures: list[BaseException] = []

        def guarded() -> None:
            try:
                run()
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=guarded, name="tensorrt")
        thread.start()
        while thread.is_alive():
            try:
                thread.join()
            except KeyboardInterrupt:
                failures.append(Cancelled())
        if failures:
            raise failures[0]

    def _tell(self, method: str, *arguments: Any) -> bool:
        if self._monitor is None:
            return True
        try:
            return bool(getattr(self._monitor, method)(*arguments))
        except BaseException as error:  # the bindings' trampoline catches all and goes on, a step with False
            print(f"[ERROR] Exception caught in {method}(): {error!r}", file=sys.stderr)  # noqa: T201
            return False
