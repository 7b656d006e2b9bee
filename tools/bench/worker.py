"""Work in a process of its own. It is told what to do through a pipe, and sleeps in between."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

from spd.errors import SPDError, one_line

PATIENCE_SECONDS = 5
"""How long a process may take to end before it is killed."""


class WorkerError(Exception):
    """What was asked for failed, or the process died; the message is one line."""


class Worker:
    """A process that makes an object and calls its methods. Ctrl-C does not reach it: it ends when it is closed."""

    def __init__(self, make: Callable[..., Any], *args: Any) -> None:
        """Start it; the object is made meanwhile, see `made`.

        Args:
            make: a function at the top of a module.
            args: for it; what pickle takes.
        """
        context = multiprocessing.get_context("spawn")
        with ExitStack() as undo:
            with _ctrl_c_held_back():  # a Ctrl-C of that time comes through at its end
                self._pipe, theirs = context.Pipe()
                handle, name = tempfile.mkstemp(prefix="spd-bench-", suffix=".log")
                os.close(handle)
                self._log = Path(name)
                self._process = context.Process(target=_serve, args=(theirs, name, make, args), daemon=True)
                self._process.start()
                theirs.close()
                undo.callback(self.close)
            undo.pop_all()

    def made(self) -> Any:
        """Wait for the object; what `make` gave if it is plain data, else None.

        Raises:
            WorkerError: it could not be made.
        """
        return self._answer()

    def call(self, method: str, *args: Any) -> Any:
        """What a method of the object gives.

        Raises:
            WorkerError: it failed.
        """
        with suppress(OSError):  # a process that is gone is noticed by the answer that does not come
            self._pipe.send((method, args))
        return self._answer()

    def _answer(self) -> Any:
        try:
            fine, value = self._pipe.recv()
        except (EOFError, OSError) as error:
            self._process.join(PATIENCE_SECONDS)
            lines = self._log.read_text(encoding="utf-8", errors="replace").split("\n")
            said = next((f": {line.strip()[:200]}" for line in reversed(lines) if line.strip()), "")
            raise WorkerError(f"its process ended with exit code {self._process.exitcode}{said}") from error
        if not fine:
            raise WorkerError(value)
        return value

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join(0.2)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join(PATIENCE_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        with suppress(OSError):
            self._log.unlink()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def _ctrl_c_held_back() -> Iterator[None]:
    """Hold Ctrl-C back while a process is started. That process never hears it; here it comes through afterwards.

    The process inherits the blocked SIGINT. Blocking alone is not enough here: other threads still take the signal.
    """
    heard: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, _frame: heard.append(number))
    blocks = hasattr(signal, "pthread_sigmask")
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if blocks else set()
    try:
        yield
    finally:
        if blocks:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler)
        if heard:
            signal.raise_signal(signal.SIGINT)


def _serve(pipe: Connection, log: str, make: Callable[..., Any], args: tuple[Any, ...]) -> None:
    """The other end of a `Worker`."""
    target = os.open(log, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):  # runtimes print what they like, also from C
        os.dup2(target, stream)
    sys.stdout = sys.stderr = open(2, "w", buffering=1, encoding="utf-8", closefd=False)  # noqa: SIM115 - for good
    made: Any = None
    todo: Callable[..., Any] = make
    while True:
        try:
            value = todo(*args)
            if made is None:
                made, value = value, value if isinstance(value, dict | str | int | float | None) else None
            pipe.send((True, value))
        except Exception as error:  # whatever it is, it is a line in the table
            pipe.send((False, _error_line(error)))
        try:
            method, args = pipe.recv()
        except EOFError:
            return
        todo = getattr(made, method)


def _error_line(error: Exception) -> str:
    return one_line(error) if isinstance(error, SPDError) else f"{type(error).__name__}: {one_line(error)}"
