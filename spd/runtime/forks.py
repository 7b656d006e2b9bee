"""What happens to a model in a process that is forked from the one that loaded it: nothing, at once.

A fork copies memory but not the threads. There, a query would wait for a thread pool that nobody works in, and so would
whatever ends that pool. A GPU cannot be used after a fork at all. So the copies are refused, and never freed.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Iterable
from typing import Any, Protocol

from spd.errors import SPDError


class Owner(Protocol):
    """Holds what must not be freed in a forked process."""

    def unforkable(self) -> Iterable[Any]:
        """The objects."""


_owners: weakref.WeakSet[Owner] = weakref.WeakSet()


class Process:
    """The process in which something was made."""

    def __init__(self) -> None:
        self._number = os.getpid()

    @property
    def is_this(self) -> bool:
        """False in a process that was forked since."""
        return os.getpid() == self._number

    def check(self) -> None:
        """Refuse to work in another process.

        Raises:
            SPDError: this process was forked from the one in which the model was loaded.
        """
        if not self.is_this:
            raise SPDError(
                f"the model was loaded in process {self._number}, from which this process, {os.getpid()}, was forked; "
                "load it in each process, after the fork only, or start processes with multiprocessing's spawn method"
            )


def keep_in_forks(owner: Owner) -> None:
    """Have forked processes keep what `owner` holds for as long as they live, whatever happens to its references."""
    _owners.add(owner)


def _keep() -> None:
    for owner in list(_owners):
        for kept in owner.unforkable():
            # A list of this module would go when the interpreter ends, and what is in it after that.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_keep)
