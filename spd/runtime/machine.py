"""What a machine has: cores, packages, and GPUs, as the driver's own libraries tell, so that no package is needed."""

from __future__ import annotations

import ctypes
import math
import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from spd.runtime.devices import cuda_missing

WINDOWS = sys.platform == "win32"

# Numbers of CUdevice_attribute.
_MAJOR, _MINOR = 75, 76


@dataclass(frozen=True)
class GpuInfo:
    """One GPU."""

    name: str
    """Such as NVIDIA H200."""
    compute_capability: str
    """Such as 9.0."""
    memory_bytes: int
    """All of its memory."""


def cores() -> int:
    """How many cores this process may use: those that it may run on, and no more than its container has time for."""
    if hasattr(os, "process_cpu_count"):  # from Python 3.13 on
        count = os.process_cpu_count()
    elif hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count()
    return max(1, math.ceil(min(count or 1, cpu_quota())))


def cpu_quota(root: Path = Path("/")) -> float:
    """CPU time per time that Linux's control groups grant this process, such as 1.5; infinity without a limit.

    A limit may be on the process's own group or on any group around it; the smallest counts. Both versions of control
    groups are read, as a machine may have both.

    Args:
        root: where `proc` and `sys` are.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return math.inf
    mounts, quotas = root / "sys/fs/cgroup", [math.inf]
    for line in lines:
        _, controllers, group = (*line.split(":", 2), "", "")[:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        # In a container the group may be named as outside, where only its mount point is visible.
        path = [part for part in group.split("/") if part not in ("", "..")]
        for mount in (mounts / "cpu", mounts / controllers) if controllers else (mounts, mounts / "unified"):
            quotas += (_group_quota(mount.joinpath(*path[:depth])) for depth in range(len(path) + 1))
    return min(quotas)


def _group_quota(folder: Path) -> float:
    """The limit of one control group: microseconds per period, `max` or a negative number for none."""
    try:
        if (folder / "cpu.max").exists():  # version 2
            quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        else:
            quota, period = ((folder / f"cpu.cfs_{n}_us").read_text(encoding="ascii") for n in ("quota", "period"))
        limit = math.inf if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf
    return limit if limit > 0 else math.inf


def package_versions(packages: Iterable[str]) -> dict[str, str]:
    """Versions of those of some packages that are installed, in their order."""
    found = {}
    for package in packages:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def gpus() -> list[GpuInfo]:
    """The GPUs that CUDA programs see, in CUDA's order; empty if there are none."""
    if cuda_missing() is not None:
        return []
    driver = ctypes.CDLL("nvcuda.dll" if WINDOWS else "libcuda.so.1")
    count = ctypes.c_int(0)
    driver.cuDeviceGetCount(ctypes.byref(count))
    return [_gpu(driver, ordinal) for ordinal in range(count.value)]


def _gpu(driver: Any, ordinal: int) -> GpuInfo:
    device, major, minor = ctypes.c_int(0), ctypes.c_int(0), ctypes.c_int(0)
    memory, name = ctypes.c_size_t(0), ctypes.create_string_buffer(256)
    driver.cuDeviceGet(ctypes.byref(device), ordinal)
    driver.cuDeviceGetName(name, len(name), device)
    driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device)
    driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device)
    driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    return GpuInfo(name.value.decode(errors="replace"), f"{major.value}.{minor.value}", memory.value)


def driver_version() -> str | None:
    """Version of the driver, such as 580.65.06, and the CUDA version that it supports; None without a driver."""
    if cuda_missing() is not None:
        return None
    supported = ctypes.c_int(0)
    ctypes.CDLL("nvcuda.dll" if WINDOWS else "libcuda.so.1").cuDriverGetVersion(ctypes.byref(supported))
    cuda = f"for CUDA {_dotted(supported.value)}"
    text = ctypes.create_string_buffer(96)
    try:
        management = ctypes.CDLL("nvml.dll" if WINDOWS else "libnvidia-ml.so.1")
        status = management.nvmlInit_v2() or management.nvmlSystemGetDriverVersion(text, len(text))
    except (OSError, AttributeError):
        return cuda
    return cuda if status else f"{text.value.decode(errors='replace')}, {cuda}"


def cuda_runtime_version() -> str | None:
    """Version of a CUDA runtime that the system's loader finds, such as 13.0; None if there is none."""
    for major in (13, 12):
        try:
            runtime = ctypes.CDLL(f"cudart64_{major}.dll" if WINDOWS else f"libcudart.so.{major}")
        except OSError:
            continue
        version = ctypes.c_int(0)
        if runtime.cudaRuntimeGetVersion(ctypes.byref(version)) == 0:
            return _dotted(version.value)
    return None


def _dotted(version: int) -> str:
    """CUDA writes 13.2 as 13020."""
    return f"{version // 1000}.{version % 1000 // 10}"
