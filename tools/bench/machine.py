"""The machine as a report names it, and holding this process and its children to some cores."""

from __future__ import annotations

import os
import platform
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

PACKAGES = (
    "spd-depth", "numpy", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "torch", "transformers",
    "onnxscript",
)  # fmt: skip

BUSY = 0.5
"""Load average from which a machine is not ours alone."""


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


def describe(threads: int, load: float | None) -> dict[str, Any]:
    """The machine as JSON has it."""
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
