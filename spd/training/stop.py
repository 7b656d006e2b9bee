"""Ctrl-C and SIGTERM as a request to stop after the step under way."""

from __future__ import annotations

import os
import signal
import time
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)

SAME_REQUEST = 1.0
"""Seconds within which further signals are the same request: torchrun passes on the Ctrl-C that a terminal has already
sent to all processes."""


class StopRequest:
    """Takes the first signal as a request; use it in a `with`, in the main thread. The next one acts as without it."""

    def __init__(self, announced: bool) -> None:
        """`announced`: whether the request is answered on stderr; one of several processes should."""
        self.asked = False
        self._announced = announced
        self._before: dict[signal.Signals, Any] = {}
        self._at = 0.0

    def __enter__(self) -> StopRequest:
        for kind in SIGNALS:
            self._before[kind] = signal.signal(kind, self._ask)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _ask(self, number: int, _: FrameType | None) -> None:
        if not self.asked:
            self.asked, self._at = True, time.monotonic()
            if self._announced:  # not by print, which may be what the signal interrupted
                os.write(2, b"\nStopping after this step; once more ends at once.\n")
        elif time.monotonic() - self._at > SAME_REQUEST:
            self._restore()
            signal.raise_signal(number)

    def _restore(self) -> None:
        for kind, handler in self._before.items():
            signal.signal(kind, handler)
