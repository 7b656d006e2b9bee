"""The tables of `spd-profile --kernels`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from engines.layers import Tensor
from engines.profile.compiled import LARGEST, CompiledBundle, KernelCount
from engines.profile.cost import Cost
from engines.profile.predicted import DATA_SHEETS, LAUNCH_SECONDS

if TYPE_CHECKING:
    from rich.console import Console, JustifyMethod
    from rich.table import Table


def show(report: CompiledBundle, beside: str | None, console: Console) -> None:
    """Print two tables for each graph, blocks and the largest kernels, one of predictions, and what to know of them.

    `beside` compares the graphs with those of another precision.
    """
    from rich.table import Table  # 60 ms that JSON does not need

    for graph in report.graphs:
        at, total = f", K = {graph.points}" if graph.points else "", graph.total
        console.print(
            f"{graph.graph} {report.precision}{at}: compiled, not run, for compute capability "
            f"{report.compute_capability} by {report.compiler}",
            soft_wrap=True,
            highlight=False,
        )
        blocks = Table()
        for column in ("block", "kernels", "MB moved", "MB", "x MB", "MMAC", "only move", "MB by these"):
            blocks.add_column(column, justify="left" if column == "block" else "right", no_wrap=True)
        for block, count in graph.by_block().items():
            blocks.add_row(*_cells(block, count, graph.costs[block]))
        blocks.add_section()
        blocks.add_row(*_cells("total", total, graph.total_cost))
        largest = Table(title=f"The {LARGEST} largest kernels of the {graph.graph}", title_justify="left")
        for column in ("MB moved", "block", "kernel", "reads", "writes"):
            justify: JustifyMethod = "right" if column == "MB moved" else "left"
            largest.add_column(column, justify=justify, no_wrap=True, max_width=48)
        for kernel, block in graph.largest():
            reads, writes = _shapes((*kernel.inputs, *kernel.constants)), _shapes(kernel.outputs)
            largest.add_row(f"{kernel.nbytes / 1e6:.2f}", block, kernel.name, reads, writes)
        console.print(blocks, largest)
        console.print(
            f"{total.moving_kernels} of {total.kernels} kernels only copy, cast, reshape or transpose: "
            f"{total.moving_bytes / 1e6:.2f} of {total.bytes / 1e6:.2f} MB. Scratch memory: "
            f"{graph.compiled.scratch_bytes / 1e6:.1f} MB for each context. "
            f"Plan: {len(graph.compiled.plan) / 1e6:.1f} MB.",
            soft_wrap=True,
            highlight=False,
        )
    console.print(_predictions(report))
    notes: tuple[str, ...] = (
        "MB moved: what the kernels read and write, as if no cache held any of it. MB: weights and what enters or "
        "leaves the block.",
        f"Predicted: for each kernel the longest of a launch ({LAUNCH_SECONDS * 1e6:g} us), its bytes and its "
        "multiply-accumulates, at the rates of the data sheet.",
        f"The kernels are those for compute capability {report.compute_capability}; --compute takes another.",
    )
    notes = notes if beside is None else (beside, *notes)
    console.print(*notes, sep="\n", soft_wrap=True, highlight=False)


def _predictions(report: CompiledBundle) -> Table:
    """A table of predicted times, a row for each GPU."""
    from rich.table import Table

    table = Table(title="Predicted, not measured, from data sheets", title_justify="left")
    table.add_column("GPU", no_wrap=True)
    rate = "TFLOP/s" if report.precision == "fp32" else f"{report.precision} TFLOP/s"
    for column in ("compute", "GB/s", rate, *(f"{graph.graph} ms" for graph in report.graphs)):
        table.add_column(column, justify="right", no_wrap=True)
    times = [graph.predicted_ms() for graph in report.graphs]
    for sheet in DATA_SHEETS:
        tflops = sheet.fp32_tflops if report.precision == "fp32" else sheet.half_tflops
        table.add_row(
            sheet.name,
            sheet.compute_capability,
            f"{sheet.bandwidth_gb:g}",
            f"{tflops:.1f}",
            *(f"{graph[sheet.name]:.3f}" for graph in times),
        )
    return table


def _cells(name: str, count: KernelCount, cost: Cost) -> tuple[str, ...]:
    return (
        name,
        str(count.kernels),
        f"{count.bytes / 1e6:.2f}",
        f"{cost.bytes / 1e6:.2f}",
        f"{count.bytes / cost.bytes:.1f}" if cost.bytes else "",
        f"{cost.macs / 1e6:.1f}",
        str(count.moving_kernels),
        f"{count.moving_bytes / 1e6:.2f}",
    )


def _shapes(tensors: Iterable[Tensor]) -> str:
    """The largest of some tensors, and how many more there are, such as `1x256x92x192 Half + 3`."""
    first, *rest = sorted(tensors, key=lambda tensor: tensor.nbytes, reverse=True)
    text = f"{'x'.join(map(str, first.shape))} {first.dtype}"
    return f"{text} + {len(rest)}" if rest else text
