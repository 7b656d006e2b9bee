"""From options to Lightning Fabric, also under `torchrun` and `fabric run`, which say the number of processes."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from lightning_fabric.strategies.single_device import SingleDeviceStrategy
from lightning_fabric.utilities.exceptions import MisconfigurationException
from torch.distributed import is_torchelastic_launched

from spd.errors import BackendError, one_line
from spd.runtime.machine import cores

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed"}
"""Fabric's names. Mixed float16 is missing, as it needs a scale of the loss that a resumed run would not have."""


@dataclass(frozen=True)
class Machine:
    """What to train on."""

    accelerator: str = "auto"
    """"cpu", "cuda" or "mps"; "auto" takes a GPU if there is one."""
    devices: int | None = None
    """GPUs, or processes on a CPU, per machine; None is as many as before, all GPUs, or one process."""
    nodes: int = 1
    """Machines."""
    precision: str = "auto"
    """One of `PRECISIONS`; "auto" is that of before, or bf16 where the device computes in it."""
    threads: int | None = None
    """CPU threads of each process; None shares the cores among them."""


def fabric_for(machine: Machine, begun: Mapping[str, Any]) -> Fabric:
    """Fabric on what the machine has, not launched yet.

    What the options leave open is as `torchrun` or `fabric run` says, or else as the run was begun. `fabric run` says
    it in environment variables LT_..., which Fabric takes in the place of its own defaults, and of nothing else.

    Args:
        machine: the options.
        begun: `State.begun` of a run that is resumed, or nothing.

    Raises:
        BackendError: something that was asked for is not there, contradicts `fabric run`, or cannot be resumed.
    """
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it announces precision, processes and more
    if machine.threads:
        torch.set_num_threads(machine.threads)
        os.environ["OMP_NUM_THREADS"] = str(machine.threads)  # else Fabric sets its own where it starts processes
    elastic = is_torchelastic_launched()
    nodes = int(os.environ["GROUP_WORLD_SIZE"]) if elastic and machine.nodes == 1 else machine.nodes
    kind = _accelerator(machine.accelerator)
    devices = machine.devices or (
        int(os.environ["LOCAL_WORLD_SIZE"]) if elastic else begun.get("processes", 0) // nodes
    )
    precision = machine.precision
    if precision == "auto":
        precision = begun.get("precision") or ("bf16" if has_bf16(kind) else "fp32")
    with _refusing_in_one_line(kind):
        fabric = Fabric(
            accelerator=_unless_told("ACCELERATOR", machine.accelerator == "auto", kind, "auto"),
            devices=_unless_told(
                "DEVICES", machine.devices is None, devices or (1 if kind == "cpu" else "auto"), "auto"
            ),
            num_nodes=nodes,
            precision=_unless_told("PRECISION", machine.precision == "auto", PRECISIONS[precision], None),
        )
    if not isinstance(fabric.strategy, SingleDeviceStrategy | DDPStrategy):
        raise BackendError(f"the strategy {os.environ.get('LT_STRATEGY')} cannot train SPD; take ddp")
    if (used := fabric.strategy.precision.precision) not in PRECISIONS.values():
        raise BackendError(f"the precision {used} cannot train SPD; take {' or '.join(PRECISIONS.values())}")
    if not machine.threads and "OMP_NUM_THREADS" not in os.environ:
        _share_cores(_processes(fabric))
    return fabric


def precision_of(fabric: Fabric) -> str:
    """Which of `PRECISIONS` it has."""
    return next(name for name, theirs in PRECISIONS.items() if theirs == fabric.strategy.precision.precision)


def launch(fabric: Fabric) -> None:
    """Start the other processes, or meet them; under `fabric run` that is done.

    Raises:
        BackendError: it fails.
    """
    # Of depthwise convolutions, in a dimension of size 1.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    if os.environ.get("LT_CLI_USED", "0") == "0":
        with _refusing_in_one_line(fabric.device.type):
            fabric.launch()


def default_workers(fabric: Fabric) -> int:
    """Processes per process that prepare batches: one for each core that is left, at most 8."""
    return min(8, max(1, cores() // _processes(fabric) - 1))


def _processes(fabric: Fabric) -> int:
    """How many of them this machine runs."""
    return fabric.strategy.num_processes if isinstance(fabric.strategy, DDPStrategy) else 1


def _share_cores(processes: int) -> None:
    """Torch and Fabric would count the machine's cores, also in a container that has few."""
    threads = min(torch.get_num_threads(), max(1, cores() // processes))
    torch.set_num_threads(threads)
    if processes > 1:
        os.environ["OMP_NUM_THREADS"] = str(threads)  # else Fabric sets its own where it starts processes


def _unless_told(name: str, free: bool, value: Any, default: Any) -> Any:
    """`default`, which Fabric replaces, where the user left it free and `fabric run` says it."""
    return default if free and f"LT_{name}" in os.environ else value


def _accelerator(wanted: str) -> str:
    """The accelerator that it will be; "gpu" is for Fabric to resolve."""
    if wanted == "auto":
        wanted = os.environ.get("LT_ACCELERATOR", "auto")
    if wanted not in ("auto", "gpu"):
        return wanted
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def has_bf16(accelerator: str) -> bool:
    """Whether bfloat16 is faster than float32; processors without it are slower by far."""
    if accelerator == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return accelerator == "cpu" and bool(torch.cpu.get_capabilities().get("avx512_bf16"))


@contextmanager
def _refusing_in_one_line(accelerator: str) -> Iterator[None]:
    """An accelerator that is not there, fewer than asked for, a contradiction, no connection: Fabric's words."""
    try:
        yield
    except (RuntimeError, ValueError, MisconfigurationException) as error:
        raise BackendError(f"cannot train on {accelerator}: {one_line(error, whole=True)}") from error
