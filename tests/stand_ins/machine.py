"""The machine that the stand-ins pretend to be: its GPU, what goes wrong on it, and what was counted on it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from stand_ins.memory import Memory


@dataclass
class Faults:
    """What goes wrong, and when.

    A number n lets the n-th such event from now on fail, once; None is never. The switches stay as they are set.
    """

    allocation: int | None = None
    """Out of memory, in any kind of allocation: buffers, pinned memory, TensorRT's own."""
    enqueue: int | None = None
    """`execute_async_v3` returns False."""
    execution: int | None = None
    """An enqueue that was accepted fails while it runs; the next synchronisation reports it."""
    capture: int | None = None
    """`GraphBuilder.end_building` fails as if something in the capture was not allowed."""
    launch: int | None = None
    """`Graph.launch` fails."""
    build: int | None = None
    """`build_serialized_network` returns None."""
    deserialize: int | None = None
    """`deserialize_cuda_engine` returns None."""
    context: int | None = None
    """`create_execution_context` returns None."""
    refused_operator: str | None = None
    """Switch: the parser knows no such operator."""
    float32_layers: bool = False
    """Switch: the inspector reports every layer as float32, whatever the graph says."""
    nan_output: str | None = None
    """Switch: this output tensor is NaN."""

    def fires(self, name: str) -> bool:
        """Count one event; True if it is the one that fails."""
        left: int | None = getattr(self, name)
        if left is None:
            return False
        setattr(self, name, left - 1 or None)
        return left == 1


@dataclass(frozen=True)
class Copy:
    """One copy between memories, when it was enqueued or replayed."""

    kind: str
    """host-to-device, device-to-host, device-to-device or host-to-host."""
    bytes: int


@dataclass
class Counts:
    """What happened since the fixture was set up, or since `reset`."""

    events: Counter[str] = field(default_factory=Counter)
    """allocations, enqueues, launches, captures, synchronisations, events, builds, deserializations,
    timing_cache_hits and _misses; and what is alive now: live_engines, live_contexts, live_graphs."""
    copies: list[Copy] = field(default_factory=list)

    def reset(self) -> None:
        """Start at zero again, but for what is alive."""
        self.events = Counter({name: count for name, count in self.events.items() if name.startswith("live_")})
        self.copies.clear()

    def copied(self, kind: str) -> list[int]:
        """Sizes in bytes of the copies of a kind, in order."""
        return [copy.bytes for copy in self.copies if copy.kind == kind]


class Machine:
    """State behind both stand-ins; a test reads and sets it, the code under test never sees it."""

    def __init__(self, version: str, surface: str | None = None) -> None:
        self.version = version
        """TensorRT's version."""
        self.surface = surface or version
        """Which surface it has, a key of `trt_enums.surface`."""
        self.gpu = "NVIDIA H200"
        self.compute_capability = (9, 0)
        self.cuda = 13000
        """CUDA runtime as cudaRuntimeGetVersion says it: 13.0."""
        self.driver = 13000
        self.lock = threading.RLock()
        self.faults = Faults()
        self.counts = Counts()
        self.memory = Memory(self._before_allocation)
        self.violations: list[str] = []
        """Rules that were broken without an error that the caller could see; the fixture fails the test for them."""
        self.log: list[tuple[str, str]] = []
        """Severity and text of everything that TensorRT logged."""
        self.on_build_step: Callable[[str, int], None] | None = None
        """Called with phase and step before the progress monitor hears of it: the place to kill a build."""

    def violate(self, rule: str) -> None:
        """Note a broken rule."""
        self.violations.append(rule)

    def _before_allocation(self) -> bool:
        self.counts.events["allocations"] += 1
        return self.faults.fires("allocation")

    @property
    def live_buffers(self) -> int:
        """Open cuda.core buffers, on the device or pinned."""
        return len(self.memory.live("device")) + len(self.memory.live("pinned"))

    @property
    def live_bytes(self) -> int:
        """Bytes in open cuda.core buffers on the device."""
        return sum(allocation.size for allocation in self.memory.live("device"))


_current: list[Machine] = []


def current() -> Machine:
    """The machine at hand; the stand-ins work only while one is installed."""
    if not _current:
        raise RuntimeError("no stand-in is installed: take the fixture tensorrt_10, tensorrt_11 or tensorrt_any")
    return _current[-1]


def switch_on(machine: Machine) -> None:
    """Make this the machine at hand."""
    _current[:] = [machine]


def switch_off() -> None:
    """No machine any more."""
    _current.clear()
