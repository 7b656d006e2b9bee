"""What a profile says, block by block: as numbers, as JSON, and as tables for people."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from engines.profile.blocks import BLOCKS
from engines.profile.cost import Cost
from engines.profile.machine import Machine
from engines.profile.times import GraphTimes, Settings
from spd.bundle import Bundle
from spd.runtime.machine import package_versions

if TYPE_CHECKING:
    from rich.console import Console

PACKAGES = ("spd-depth", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx-cu13")


@dataclass(frozen=True)
class BlockProfile:
    """One block of the paper in one graph."""

    block: str
    ms: float
    """Milliseconds: its operators' times added up in each run, the median of the runs."""
    share: float
    """Of the times of all blocks of the graph, 0 to 1."""
    operators: int
    """Operators that the runtime executed."""
    macs: int
    """Multiply-accumulates, counted on the exported graph."""
    bytes: int
    """Bytes it cannot do without: weights, and activations that enter or leave it."""
    bytes_run: int | None
    """Bytes that its operators read and wrote, if the runtime tells."""
    flop_per_byte: float
    """Arithmetic intensity: two operations per multiply-accumulate, over `bytes`."""
    floor_ms: float | None
    """The roofline: the longer of arithmetic and traffic at the machine's best; None if that is not known."""
    over_floor: float | None
    """How many times the floor it takes."""


@dataclass(frozen=True)
class GraphProfile:
    """One graph, block by block."""

    graph: str
    """encoder or decoder."""
    points: int
    """K of its calls; 0 for an encoder."""
    call_ms: float
    """Milliseconds of a whole call through the runtime that applications use, the median."""
    operators_ms: float
    """Milliseconds of all blocks."""
    blocks: tuple[BlockProfile, ...]


@dataclass(frozen=True)
class Report:
    """A profile of a bundle."""

    bundle: Bundle
    settings: Settings
    machine: Machine | None
    times: tuple[GraphTimes, ...]
    """As measured."""
    graphs: tuple[GraphProfile, ...]
    """Summarised, in the same order."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know when reading the numbers."""
        notes = []
        if self.machine is None:
            notes.append("no floor: onnxruntime-cuda cannot measure the GPU here; give --peak-gflops and --bandwidth")
        else:
            notes.append(
                f"floor: {self.machine.flops / 1e9:.4g} GFLOP/s and {self.machine.bandwidth / 1e9:.3g} GB/s, "
                f"{self.machine.source}; what stays in a processor's cache can be faster"
            )
        if self.settings.backend == "onnxruntime-cuda":
            notes.append("every kernel was waited for (CUDA_LAUNCH_BLOCKING=1), so calls take longer than in use")
        return tuple(notes)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; times in milliseconds."""
        manifest, settings, machine = self.bundle.manifest, self.settings, self.machine
        return {
            "bundle": manifest.name,
            "preset": manifest.preset,
            "size": [manifest.height, manifest.width],
            "weights_sha256": manifest.weights_sha256,
            **asdict(settings),
            "machine": {
                "processor": platform.processor() or platform.machine(),
                "peak_gflops": None if machine is None else machine.flops / 1e9,
                "bandwidth_gbs": None if machine is None else machine.bandwidth / 1e9,
                "source": None if machine is None else machine.source,
            },
            "packages": package_versions(PACKAGES),
            "notes": list(self.notes),
            "graphs": [
                {
                    **asdict(profile),
                    "calls_ms": [seconds * 1e3 for seconds in times.calls],
                    "operators": [
                        {"name": o.name, "kind": o.kind, "block": o.block, "ms": o.median * 1e3, "bytes_run": o.bytes}
                        for o in times.operators
                    ],
                }
                for profile, times in zip(self.graphs, self.times, strict=True)
            ],
        }


def summarise(times: GraphTimes, costs: Mapping[str, Cost], machine: Machine | None) -> GraphProfile:
    """Group the operators of a graph by block; a block with neither operators nor cost is left out."""
    found = []
    blocks = {block: [o for o in times.operators if o.block == block] for block in BLOCKS[times.graph]}
    seconds = {
        block: median(sum(run) for run in zip(*(o.seconds for o in operators), strict=True)) if operators else 0.0
        for block, operators in blocks.items()
    }
    whole = sum(seconds.values())
    for block, operators in blocks.items():
        cost = costs[block]
        if not operators and not cost.macs:
            continue
        floor = None if machine is None else machine.floor(cost.macs, cost.bytes)
        counts = [o.bytes for o in operators]
        found.append(
            BlockProfile(
                block=block,
                ms=seconds[block] * 1e3,
                share=seconds[block] / whole if whole else 0.0,
                operators=len(operators),
                macs=cost.macs,
                bytes=cost.bytes,
                bytes_run=None if None in counts else sum(count or 0 for count in counts),
                flop_per_byte=2 * cost.macs / cost.bytes if cost.bytes else 0.0,
                floor_ms=None if floor is None else floor * 1e3,
                over_floor=seconds[block] / floor if floor else None,
            )
        )
    return GraphProfile(times.graph, times.points, median(times.calls) * 1e3, whole * 1e3, tuple(found))


def show(report: Report, console: Console) -> None:
    """Print a table for each graph, and what to know of them."""
    from rich.table import Table  # 60 ms that JSON does not need

    settings = report.settings
    for profile in report.graphs:
        at = f", K = {profile.points}" if profile.points else ""
        table = Table(
            title=f"{profile.graph} {settings.precision} on {settings.backend}{at}: {profile.call_ms:.4g} ms a call, "
            f"{profile.operators_ms:.4g} ms in operators",
            title_justify="left",
        )
        for column in ("block", "operators", "ms", "share", "MMAC", "MB", "MB run", "FLOP/B", "floor ms", "x floor"):
            table.add_column(column, justify="left" if column == "block" else "right", no_wrap=True)
        for block in profile.blocks:
            table.add_row(
                block.block,
                str(block.operators),
                f"{block.ms:.3f}",
                f"{block.share:.1%}",
                f"{block.macs / 1e6:.1f}",
                f"{block.bytes / 1e6:.2f}",
                "" if block.bytes_run is None else f"{block.bytes_run / 1e6:.2f}",
                f"{block.flop_per_byte:.1f}",
                "" if block.floor_ms is None else f"{block.floor_ms:.3f}",
                "" if block.over_floor is None else f"{block.over_floor:.1f}",
            )
        console.print(table)
    console.print(
        f"ms: operators added up, median of {settings.runs} runs. MB: weights and what enters or leaves the block; MB "
        "run: what its operators read and write. floor: the longer of arithmetic and MB at the machine's best.",
        soft_wrap=True,
        highlight=False,
    )
    for note in report.notes:
        console.print(f"Note: {note}.", soft_wrap=True, highlight=False, markup=False)
