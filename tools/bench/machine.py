"""The machine as a report names it, and holding this process and its children to some cores."""

from __future__ import annotations

import os
import platform
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

PACKAGES = (
    "spd-depth", "numpy", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "torch", "transformers",
    "onnxscript", "ultralytics",
)  # fmt: skip

BUSY = 0.5
"""Load average from which a machine is not ours alone."""

DISTURBED = 0.05
"""Share of the processor from which others disturb what is measured."""

DRIFT = 0.15
"""Change of the machine's speed between rounds from which a report says so."""


def pin(threads: int | None) -> int:
    """Hold this process, and those it starts, to as many cores as there are threads; all that it may use by default.

    Returns:
        The number of threads.
    """
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        threads = min(threads or len(cores), len(cores))
        os.sched_setaffinity(0, cores[:threads])
    else:
        threads = threads or os.cpu_count() or 1
    os.environ["OMP_NUM_THREADS"] = str(threads)  # for what has no setting of its own
    return threads


def load_average() -> float | None:
    """How many processes wanted to run in the last minute; None where that is not known."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


class OtherLoad:
    """What others take of the processor from when this is made; also what a hypervisor gives to other machines."""

    def __init__(self) -> None:
        self._start = self._times()

    def share(self) -> float | None:
        """Their share of all cores (0..1) up to now; children count once they have ended. None if it is not known."""
        now = self._times()
        if self._start is None or now is None:
            return None
        seconds, busy, own = (after - before for before, after in zip(self._start, now, strict=True))
        return max(0.0, busy - own) / (seconds * (os.cpu_count() or 1))

    def _times(self) -> tuple[float, float, float] | None:
        """The clock, seconds of all cores together in which they were busy, and those of this process."""
        stat = Path("/proc/stat")
        if not stat.is_file():
            return None
        ticks = [int(part) for part in stat.read_text(encoding="utf-8").split("\n", 1)[0].split()[1:9]]
        user, nice, system, _idle, _wait, irq, softirq, steal = ticks
        busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
        return time.monotonic(), busy, sum(os.times()[:4])


def describe(threads: int, load: float | None, others: float | None) -> dict[str, Any]:
    """The machine as JSON has it, with the load before and the share that others took meanwhile."""
    from spd.runtime.machine import gpus  # for --help

    pinned = hasattr(os, "sched_getaffinity")
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": threads,
        "pinned_to": sorted(os.sched_getaffinity(0)) if pinned else None,
        "memory_gb": _memory_gb(),
        "gpus": [gpu.name for gpu in gpus()],
        "system": f"{platform.system()} {platform.machine()}",
        "load_before": load,
        "others": others,
    }


def versions() -> dict[str, str]:
    """Python's version and those of the packages that matter and are here."""
    from spd.runtime.machine import package_versions  # for --help

    return {"python": platform.python_version(), **package_versions(PACKAGES)}


def now() -> str:
    """Date and time, UTC."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")


def cpu_name() -> str:
    """What the processor calls itself."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return " ".join(line.partition(":")[2].split())
    return platform.processor() or platform.machine()


def _memory_gb() -> float | None:
    if not hasattr(os, "sysconf"):
        return None
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
