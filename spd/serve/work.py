"""A bounded number of requests at work: few threads, a short queue, and nothing done for clients that went away."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

Result = TypeVar("Result")

BUSY = 429


class Work:
    """Runs functions for requests on a pool of threads.

    All methods are called in the event loop's thread.
    """

    def __init__(self, workers: int, queue: int) -> None:
        """Begin with nothing to do.

        Args:
            workers: threads.
            queue: how many requests may have a place beyond those at work.
        """
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="spd-serve")
        self._places = workers + queue
        self._lock = threading.Lock()
        self.taken = 0
        """Requests that are read, wait, or are at work."""
        self.running = 0
        """Functions that run now."""
        self.waiting = 0
        """Functions that wait for a thread."""

    @contextmanager
    def place(self) -> Iterator[None]:
        """Take a place for one request, from before its body is read until its work has ended.

        So the bodies in memory are bounded too.

        Raises:
            HTTPException: all are taken.
        """
        if self.taken >= self._places:
            line = f"the server is busy: {self._places} requests are being answered; ask again later"
            raise HTTPException(BUSY, line, {"Retry-After": "1"})
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1

    async def run(self, request: Request, function: Callable[[], Result]) -> Result:
        """What a function returns, run on one of the threads.

        If the client goes away before it begins, it never does. If it has begun, its end is waited for, since the
        thread is not free before.

        Args:
            request: its body must have been read.
            function: the work.

        Raises:
            ClientDisconnect: the client went away.
        """
        with self._lock:
            self.waiting += 1
        future = self._pool.submit(self._counted, function)
        result = asyncio.wrap_future(future)
        result.add_done_callback(_look_at)
        gone = asyncio.ensure_future(_disconnect(request))
        ends: set[asyncio.Future[Any]] = {result, gone}
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if not gone.done():
                return result.result()
            if not self._cancel(future):
                await asyncio.wait({result})
        finally:
            self._cancel(future)  # the server's time to finish may be over
            gone.cancel()
        raise ClientDisconnect

    def close(self) -> None:
        """Drop what waits, and wait for what runs."""
        self._pool.shutdown(cancel_futures=True)

    def _counted(self, function: Callable[[], Result]) -> Result:
        with self._lock:
            self.waiting -= 1
            self.running += 1
        try:
            return function()
        finally:
            with self._lock:
                self.running -= 1

    def _cancel(self, future: Future[Any]) -> bool:
        """Whether a function had not begun, and never will."""
        if future.cancelled():
            return True
        cancelled = future.cancel()
        with self._lock:
            self.waiting -= cancelled
        return cancelled


def _look_at(result: asyncio.Future[Any]) -> None:
    """Take note of an error, which asyncio would print otherwise."""
    if not result.cancelled():
        result.exception()


async def _disconnect(request: Request) -> None:
    """Return once the client is gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
