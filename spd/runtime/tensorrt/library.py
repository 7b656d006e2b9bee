"""TensorRT and TensorRT for RTX: two libraries with nearly one API. What differs between them is here."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spd.bundle import Bundle
from spd.bundle.plans import PlanRecord
from spd.errors import BackendError
from spd.runtime.packages import import_tensorrt, import_tensorrt_rtx

logger = logging.getLogger("spd")

PREFERENCE = ("fp16", "bf16", "int8-fp16", "fp8", "fp32")
"""The precision that is taken by default is the first of these that has engines."""


@dataclass(frozen=True)
class Library:
    """A library that builds plans and runs them."""

    flavour: str
    """One of `spd.bundle.plans.FLAVOURS`."""
    backend: str
    """The backend that runs its plans, as in `spd.load`."""
    name: str
    """For messages."""
    module: Callable[[], Any]
    """Imports its module; a BackendError if it is missing or not a supported version."""
    options: str
    """What spd-build needs to be told for it."""

    def build_command(self, path: Path, precision: str) -> str:
        """The command that builds engines of a bundle."""
        return f"spd-build {path}{self.options} --precision {precision}"

    def rebuild_command(self, path: Path, precision: str) -> str:
        """The command that replaces engines of a bundle."""
        return f"{self.build_command(path, precision)} --force"

    def prove_command(self, path: Path, precision: str) -> str:
        """The command that proves engines of a bundle."""
        return f"spd-build {path} --prove{self.options} --precision {precision}"


TENSORRT = Library("tensorrt", "tensorrt", "TensorRT", import_tensorrt, "")
RTX = Library("rtx", "tensorrt-rtx", "TensorRT for RTX", import_tensorrt_rtx, " --for rtx")
LIBRARIES = {library.flavour: library for library in (TENSORRT, RTX)}


_warned: set[str] = set()


def warn_unproven(bundle: Bundle, records: Iterable[PlanRecord], library: Library) -> str | None:
    """The line to note if plans never passed the gate on a GPU; logged once in a process for each bundle."""
    unproven = [record for record in records if not record.proven]
    if not unproven:
        return None
    line = (
        f"nothing proves that {' and '.join(record.file for record in unproven)} of {bundle.path} compute what the "
        f"model does; prove them: {library.prove_command(bundle.path, unproven[0].precision)}"
    )
    if line not in _warned:
        _warned.add(line)
        logger.warning("%s", line)
    return line


def plan_records(bundle: Bundle, precision: str | None, library: Library = TENSORRT) -> dict[str, PlanRecord]:
    """The records of encoder and decoder in a precision, by default the first of `PREFERENCE` that has both.

    Raises:
        BackendError: there are none, or can be none.
    """
    if precision == "int8":
        raise BackendError(f"{library.backend} cannot run int8: its graphs are for CPUs; take int8-fp16")
    engines = [record for record in bundle.manifest.engines if record.flavour == library.flavour]
    built = {
        wanted: {record.graph: record for record in engines if record.precision == wanted} for wanted in PREFERENCE
    }
    complete = [wanted for wanted in PREFERENCE if {"encoder", "decoder"} <= built[wanted].keys()]
    backend = library.backend
    if not complete:
        where = " on this machine" if library is TENSORRT else ""
        raise BackendError(
            f"{backend} cannot run {bundle.path}: it has no {library.name} engines; build them{where}: "
            f"{library.build_command(bundle.path, precision or 'fp16')}"
        )
    if precision not in (None, *complete):
        raise BackendError(
            f"{backend} cannot run {bundle.path} in {precision}: it has engines for {', '.join(complete)} only; build "
            f"them: {library.build_command(bundle.path, precision or 'fp16')}"
        )
    return built[precision or complete[0]]
