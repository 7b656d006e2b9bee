"""The tables at the end of `spd-export`: what was written, and how close it is to the model."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from export.accuracy import ROOMS, QuantisedResult
from export.parity import ParityResult
from export.pipeline import Exported


def summarise_export(exported: Exported, seconds: float, console: Console) -> None:
    """Print what was written and how close it is to the model; `seconds` is what the export took."""
    manifest = exported.manifest
    table = Table(title=f"{exported.path}, {seconds:.0f} s", title_justify="left")
    for column in ("precision", "encoder", "decoder", "largest error", "mean error", "same routes"):
        table.add_column(column, justify="left" if column == "precision" else "right")
    for precision in manifest.precisions:
        sizes = [f"{manifest.files[name].bytes / 1e6:.1f} MB" for name in manifest.graphs[precision].values()]
        result = next((r for r in exported.parity if r.precision == precision), None)
        errors = ["not verified"] * 3
        if result is not None:
            routes = f"{result.shared_routes:.2%}" if isinstance(result, ParityResult) else ""
            errors = [f"{result.max_error:.1e}", f"{result.mean_error:.1e}", routes]
        table.add_row(precision, *sizes, *errors)
    console.print(table)
    quantised = [result for result in exported.parity if isinstance(result, QuantisedResult)]
    if quantised:
        console.print(table_of_rooms(quantised))
    if exported.skipped:
        images = f"{len(exported.skipped)} images were not calibrated on, such as: {exported.skipped[0]}"
        console.print(images, highlight=False, markup=False, soft_wrap=True)
    if not manifest.verified:
        console.print("Not verified: nothing proves that these graphs compute what the model computes.", soft_wrap=True)
    if not manifest.trained:
        only = " 8-bit graphs were judged by how much they change." if quantised else ""
        console.print(f"Untrained weights: the depths mean nothing.{only}", soft_wrap=True)
    console.print(f"Try it: spd-infer PHOTO --points grid:100 --engines {exported.path}", soft_wrap=True)


def table_of_rooms(results: list[QuantisedResult]) -> Table:
    """What the gate of the 8-bit graphs measured."""
    table = Table(title=f"On {ROOMS} rendered rooms", title_justify="left")
    for column in ("precision", "change of depth", "AbsRel", "RMSE, m", "delta 1", "delta 2", "delta 3"):
        table.add_column(column, justify="left" if column == "precision" else "right")
    rows = [("fp32", results[0].exact, ""), *((r.precision, r.rooms, f"{r.change:.2%}") for r in results)]
    for precision, rooms, change in rows:
        found = rooms.metrics
        numbers = [f"{found.abs_rel:.4f}", f"{found.rmse:.3f}"]
        numbers += [f"{delta:.2%}" for delta in (found.delta1, found.delta2, found.delta3)]
        table.add_row(precision, change, *(numbers if results[0].trained else [""] * 5))
    return table
