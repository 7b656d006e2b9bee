"""Device and pinned memory, both on the host, in which every address is known and none is used twice soon."""

from __future__ import annotations

import bisect
import ctypes
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from stand_ins.timeline import Work

ALIGNMENT = 256
"""Bytes; CUDA aligns to at least as many, and TensorRT expects it of tensors."""

QUARANTINE = 1 << 28
"""Bytes of freed memory that are kept, so that a stale address is found out instead of naming something new."""

POISON = 0xFF
"""Fills new and freed memory: NaN in float16, bfloat16 and float32."""


class OutOfMemoryError(Exception):
    """No memory left, or a planned fault."""


class IllegalAddressError(Exception):
    """An address that belongs to nothing, or no longer to anything."""


@dataclass(eq=False)
class Allocation:
    """A block of memory."""

    kind: str
    """device, pinned, or what TensorRT allocated: engine, context, workspace."""
    size: int
    address: int
    bytes: NDArray[np.uint8]
    freed: bool = False
    last_write: Work | None = None
    reads: list[Work] = field(default_factory=list)
    """Reads since the last write; with it, what an access on another stream must be ordered after."""

    @property
    def pending(self) -> list[str]:
        """Names of the work on it that has not run yet."""
        return [work.name for work in (self.last_write, *self.reads) if work is not None and not work.done]


class Memory:
    """All allocations, by address."""

    def __init__(self, before_allocation: Callable[[], bool]) -> None:
        self.capacity = 1 << 34
        """Bytes on the device."""
        self._before_allocation = before_allocation
        self._addresses: list[int] = []
        self._allocations: dict[int, Allocation] = {}
        self._quarantine: deque[Allocation] = deque()

    def allocate(self, size: int, kind: str) -> Allocation:
        """A new block, full of NaN.

        Raises:
            OutOfMemoryError: a planned fault, or the device is full.
        """
        if self._before_allocation() or (kind != "pinned" and size > self.free_bytes):
            raise OutOfMemoryError(f"{size} bytes of {kind} memory")
        raw = np.full(size + ALIGNMENT, POISON, dtype=np.uint8)
        start = -raw.ctypes.data % ALIGNMENT
        block = raw[start : start + size]
        address = raw.ctypes.data + start
        allocation = Allocation(kind, size, address, block)
        bisect.insort(self._addresses, address)
        self._allocations[address] = allocation
        return allocation

    def free(self, allocation: Allocation) -> None:
        """End a block's life; its bytes stay until `poison`, for work that was enqueued before.

        Raises:
            IllegalAddressError: it has ended before.
        """
        if allocation.freed:
            raise IllegalAddressError(f"{allocation.kind} memory at {allocation.address:#x} is freed twice")
        allocation.freed = True
        self._quarantine.append(allocation)
        while sum(block.size for block in self._quarantine) > QUARANTINE and not self._quarantine[0].pending:
            old = self._quarantine.popleft()
            self._addresses.remove(old.address)
            del self._allocations[old.address]

    def poison(self, allocation: Allocation) -> None:
        """Make what is read from a freed block useless."""
        allocation.bytes[:] = POISON

    def usable(self, address: int, size: int) -> Allocation | None:
        """As `find`, for a block that is not freed.

        Raises:
            IllegalAddressError: also if it is freed.
        """
        allocation = self.find(address, size)
        if allocation is not None and allocation.freed:
            raise IllegalAddressError(f"{allocation.kind} memory at {address:#x} was freed")
        return allocation

    def live(self, kind: str) -> list[Allocation]:
        """Blocks of a kind that are not freed."""
        return [block for block in self._allocations.values() if block.kind == kind and not block.freed]

    @property
    def free_bytes(self) -> int:
        """Bytes left on the device."""
        blocks = self._allocations.values()
        return self.capacity - sum(block.size for block in blocks if not block.freed and block.kind != "pinned")

    def find(self, address: int, size: int) -> Allocation | None:
        """The block that holds this range; None for ordinary host memory, which this knows nothing of.

        Raises:
            IllegalAddressError: the range reaches beyond its block.
        """
        index = bisect.bisect_right(self._addresses, address) - 1
        if index < 0:
            return None
        allocation = self._allocations[self._addresses[index]]
        offset = address - allocation.address
        if offset > allocation.size or (offset == allocation.size and size):
            return None
        if offset + size > allocation.size:
            raise IllegalAddressError(
                f"{size} bytes at {address:#x} reach {offset + size - allocation.size} bytes beyond a block of "
                f"{allocation.size} bytes of {allocation.kind} memory"
            )
        return allocation

    def view(self, address: int, size: int) -> NDArray[np.uint8]:
        """The bytes at an address of device or pinned memory.

        Raises:
            IllegalAddressError: there is no such memory, or not so much of it.
        """
        allocation = self.find(address, size)
        if allocation is None:
            raise IllegalAddressError(f"{address:#x} is no address of device or pinned memory")
        offset = address - allocation.address
        return allocation.bytes[offset : offset + size]


def host_view(address: int, size: int) -> NDArray[np.uint8]:
    """The bytes at an address of ordinary host memory."""
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
