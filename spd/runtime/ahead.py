"""One ahead: what comes next is made in a thread while the caller has what came before."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

Made = TypeVar("Made")


def one_ahead(
    making: Iterator[Made], discard: Callable[[Made], None], left: threading.Event
) -> Generator[Made, None, None]:
    """Go through an iterator in a thread, one item ahead of the caller.

    Args:
        making: makes the items, in the thread. What it raises comes out where its item would have been.
        discard: is given an item that was made when the caller had left. Close the generator when leaving it early:
            what is being made then is waited for.
        left: is set as soon as the caller leaves early, for `making` to see.
    """
    end: Any = object()

    def discard_late(coming: Future[Made]) -> None:
        if not coming.cancelled() and coming.exception() is None and coming.result() is not end:
            discard(coming.result())

    with ThreadPoolExecutor(1, thread_name_prefix="spd-ahead") as thread:
        coming = thread.submit(next, making, end)
        try:
            while (made := coming.result()) is not end:
                coming = thread.submit(next, making, end)
                yield made
        except BaseException:
            left.set()
            coming.add_done_callback(discard_late)
            raise
