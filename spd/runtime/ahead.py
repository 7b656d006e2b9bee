"""One ahead: what comes next is made in a thread while the caller has what came before."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

Made = TypeVar("Made")


def one_ahead(making: Iterator[Made], discard: Callable[[Made], None]) -> Generator[Made, None, None]:
    """Go through an iterator in a thread, one item ahead of the caller.

    Args:
        making: makes the items, in the thread. What it raises comes out where its item would have been.
        discard: is given an item that was made when the caller had left. Close the generator when leaving it early:
            what is being made then is waited for.
    """
    end: Any = object()
    with ThreadPoolExecutor(1, thread_name_prefix="spd-ahead") as thread:

        def discard_late(coming: Future[Made]) -> None:
            if not coming.cancelled() and coming.exception() is None and coming.result() is not end:
                discard(coming.result())

        coming = thread.submit(next, making, end)
        while (made := coming.result()) is not end:
            coming = thread.submit(next, making, end)
            try:
                yield made
            except BaseException:
                coming.add_done_callback(discard_late)
                raise
