"""Streams, events and graphs: work that runs in order, later than it was enqueued, as on a GPU.

Work waits in its stream until somebody synchronises, so a result that is read too early is not there yet. Every piece
of work names the memory it reads and writes; two that touch the same memory on different streams without an event
between them are a violation, as is work on memory that was freed.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from stand_ins.machine import Machine
from stand_ins.memory import Allocation, IllegalAddressError

Span = tuple[int, int]
"""Address and size in bytes."""


class CaptureError(Exception):
    """Something that is not allowed while a stream is captured."""


class ExecutionError(Exception):
    """Work failed while it ran."""


@dataclass(eq=False)
class Work:
    """One piece of work on a stream."""

    name: str
    run: Callable[[], None]
    reads: Sequence[Span] = ()
    writes: Sequence[Span] = ()
    stream: Timeline | None = None
    ticket: int = 0
    """Position in its stream."""
    done: bool = False
    illegal: str | None = None
    """What is wrong with the memory that it uses."""


@dataclass(eq=False)
class Capture:
    """What a stream does between begin and end of a capture."""

    thread: int
    mode: str
    work: list[Work] = field(default_factory=list)
    broken: str | None = None
    """Why it cannot become a graph."""


@dataclass(eq=False)
class Marker:
    """What an event remembers."""

    work: Work
    clock: dict[int, int]


def _nothing() -> None:
    return


class Timeline:
    """A stream."""

    _numbers = itertools.count(1)

    def __init__(self, machine: Machine, handle: int | None = None) -> None:
        self.machine = machine
        self.number = next(Timeline._numbers)
        self.handle = 0x5EED0000 + 16 * self.number if handle is None else handle
        self.queue: deque[Work] = deque()
        self.clock: dict[int, int] = {}
        """Per stream, the last ticket that this stream's next work is ordered after."""
        self.capture: Capture | None = None

    def enqueue(self, work: Work) -> Work:
        """Add work, to the graph while the stream is captured."""
        if self.capture is not None:
            self.capture.work.append(work)
            return work
        work.stream = self
        work.ticket = self.clock.get(self.number, 0) + 1
        self.clock[self.number] = work.ticket
        self._order(work)
        self.queue.append(work)
        return work

    def record(self) -> Marker:
        """Mark the end of what is enqueued so far."""
        work = self.enqueue(Work("event", lambda: None))
        return Marker(work, dict(self.clock))

    def wait(self, marker: Marker) -> None:
        """Order what follows after a marker, of this or another stream."""
        if self.capture is not None:
            self.capture.broken = "it waits for an event from outside of the capture"
            return

        def reach() -> None:
            if marker.work.stream is not None:
                marker.work.stream.run_until(marker.work)

        self.enqueue(Work("wait", reach))
        for number, ticket in marker.clock.items():
            self.clock[number] = max(self.clock.get(number, 0), ticket)

    def run_until(self, work: Work | None = None) -> None:
        """Run the queue up to and including some work, or all of it.

        What is waited for by its event was enqueued before a capture began, and is not part of it.

        Raises:
            CaptureError: all of it is asked for, and the stream is being captured.
            ExecutionError: some of the work failed; the rest is dropped, as after an error on a device.
        """
        if self.capture is not None and work is None:
            self.capture.broken = "it was synchronised"
            raise CaptureError("the stream is being captured and cannot be synchronised")
        while self.queue and not (work is not None and work.done):
            following = self.queue.popleft()
            following.done = True
            try:
                if following.illegal is not None:
                    raise ExecutionError(f"an illegal memory access was encountered ({following.illegal})")
                following.run()
            except ExecutionError:
                for dropped in self.queue:
                    dropped.done = True
                self.queue.clear()
                raise
            following.run = _nothing  # memory that it used remembers it, and must not keep alive what it ran

    def _order(self, work: Work) -> None:
        """Note the work on the memory that it touches, and complain of what it is not ordered after."""
        for span in work.reads:
            allocation = self._find(work, span)
            if allocation is not None:
                self._after(work, allocation, [allocation.last_write])
                allocation.reads = [read for read in allocation.reads if not read.done] + [work]
        for span in work.writes:
            allocation = self._find(work, span)
            if allocation is not None:
                self._after(work, allocation, [allocation.last_write, *allocation.reads])
                allocation.last_write, allocation.reads = work, []

    def _find(self, work: Work, span: Span) -> Allocation | None:
        try:
            return self.machine.memory.usable(*span)
        except IllegalAddressError as error:
            work.illegal = f"{work.name}: {error}"
            self.machine.violate(work.illegal)
            return None

    def _after(self, work: Work, allocation: Allocation, others: Sequence[Work | None]) -> None:
        for other in others:
            if other is None or other.done or other.stream is None or other is work:
                continue
            if other.stream is not self and self.clock.get(other.stream.number, 0) < other.ticket:
                self.machine.violate(
                    f"race: {work.name} and {other.name} use the same {allocation.kind} memory on two streams, "
                    "and no event orders them"
                )


class Replay:
    """A graph: captured work with the addresses of that time."""

    def __init__(self, machine: Machine, work: Sequence[Work]) -> None:
        self._machine = machine
        self._work = list(work)
        self._blocks: list[tuple[str, Span, Allocation]] = []
        for item in self._work:
            for span in (*item.reads, *item.writes):
                block = machine.memory.usable(*span)
                if block is not None:
                    self._blocks.append((item.name, span, block))

    def launch(self, stream: Timeline) -> None:
        """Enqueue the whole graph.

        Raises:
            IllegalAddressError: memory that was captured is no longer there.
        """
        for name, (address, _), block in self._blocks:
            if block.freed:
                rule = (
                    f"a graph replays {name} with {block.kind} memory at {address:#x} that was freed since its capture"
                )
                self._machine.violate(rule)
                raise IllegalAddressError(rule)

        def run() -> None:
            for item in self._work:
                item.run()

        reads = [span for item in self._work for span in item.reads]
        writes = [span for item in self._work for span in item.writes]
        stream.enqueue(Work("graph", run, reads, writes))
