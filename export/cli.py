"""`spd-export`: from a checkpoint to a verified bundle."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spd.bundle.contract import PRECISIONS, QUANTISED
from spd.commands.cli import Command, Size, checkpoint_weights, note
from spd.config import DEFAULT_SIZE, PRESETS
from spd.errors import BackendError
from spd.files import CHECKPOINT_SUFFIXES, why_no_checkpoint
from spd.version import __version__

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from export.accuracy import QuantisedResult
    from export.pipeline import Exported

EPILOG = """
\b
Examples:
  spd-export --ckpt model.pt --out engines/
  spd-export --ckpt model.pt --out engines/ --size 256x320 --precision fp16 --precision bf16
  spd-export --ckpt model.pt --out engines/ --precision int8 --images photos/
  spd-export --seed-checkpoint atto --out engines/     try the tools without a checkpoint

A bundle is engines/<preset>-<H>x<W>/ with encoder and decoder as ONNX in every precision, manifest.json, parity.json,
the comparison with the PyTorch model, and gate.npz, what it was compared with. It appears only if the graphs pass.
"""


CKPT_HELP = f"Checkpoint: {', '.join(CHECKPOINT_SUFFIXES)}."
SIZE_HELP = "Size of the encoder's image.  [default: that which the checkpoint was trained at, or 480x640]"


def check_source(checkpoint: Path | None, seeded: str | None, preset: str | None, weights: str) -> None:
    """Refuse options that do not name one network, or a checkpoint that is not there.

    Raises:
        click.UsageError: neither or both of --ckpt and --seed-checkpoint, --preset or --weights alone, or no such file.
    """
    if (checkpoint is None) == (seeded is None):
        raise click.UsageError("give either --ckpt FILE or --seed-checkpoint NAME")
    if preset is not None and checkpoint is None:
        raise click.UsageError("--preset goes with --ckpt")
    if weights != "auto" and checkpoint is None:
        raise click.UsageError("--weights goes with --ckpt")
    if checkpoint is not None and (reason := why_no_checkpoint(checkpoint)):
        raise click.UsageError(f"--ckpt {checkpoint} {reason}")


@click.command(cls=Command, extra="export", epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--ckpt", type=click.Path(path_type=Path), help=CKPT_HELP)
@click.option("--seed-checkpoint", type=click.Choice(PRESETS), help="Export untrained weights instead.")
@click.option("--preset", type=click.Choice(PRESETS), help="Network of a checkpoint that does not say.")
@checkpoint_weights
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder that gets the bundle.")
@click.option("--name", help="Name of the bundle's folder.  [default: <preset>-<H>x<W>]")
@click.option("--size", type=Size(), help=SIZE_HELP)
@click.option(
    "--precision",
    "precisions",
    type=click.Choice(PRECISIONS),
    multiple=True,
    default=("fp32", "fp16"),
    show_default=True,
    help="Repeatable; fp32, the reference, is always written. int8 is for CPUs, int8-fp16 for TensorRT.",
)
@click.option(
    "--images",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder of photos to calibrate 8-bit graphs on.  [default: rendered rooms]",
)
@click.option(
    "--max-points", type=click.IntRange(1, 1 << 20), default=4096, show_default=True, help="Most points per call."
)
@click.option("--max-batch", type=click.IntRange(1, 256), default=8, show_default=True, help="Most images per call.")
@click.option("--opset", type=click.IntRange(18, 23), help="ONNX opset.  [default: 20, or 22 with bf16]")
@click.option(
    "--policy", type=click.Path(path_type=Path), help="Modules that stay float32, a file made by spd-calibrate."
)
@click.option(
    "--build",
    type=click.Choice(("auto", "yes", "rtx", "no")),
    default="auto",
    show_default=True,
    help="Build engines too: auto builds TensorRT's where it and a GPU are, rtx those of TensorRT for RTX, anywhere.",
)
@click.option("--with-routes", is_flag=True, help="Second decoder output: the routed L4 positions of each point.")
@click.option("--force", is_flag=True, help="Replace a bundle of the same name.")
@click.option("--no-verify", is_flag=True, help="Skip the comparison with the PyTorch model; the manifest says so.")
@click.version_option(__version__, prog_name="spd-export")
def main(**arguments: Any) -> None:
    """Export an SPD checkpoint to two verified ONNX graphs, an encoder and a decoder."""
    checkpoint: Path | None = arguments["ckpt"]
    seeded: str | None = arguments["seed_checkpoint"]
    preset: str | None = arguments["preset"]
    check_source(checkpoint, seeded, preset, arguments["weights"])
    if arguments["images"] is not None and not QUANTISED.keys() & {*arguments["precisions"]}:
        raise click.UsageError(f"--images goes with --precision {' or '.join(QUANTISED)}")

    # rich and torch are imported only now: they would make --help take seconds.
    from rich.console import Console

    from spd.commands.progress import Phases

    no_engines = _why_no_engines(arguments["build"])
    console = Console(stderr=True)
    phases = Phases(console)
    with phases("loading torch"):
        importlib.import_module("export.pipeline")
    from export.graphs import BF16_OPSET, DEFAULT_OPSET, GraphOptions, Limits
    from export.pipeline import Options, export_bundle, load_source
    from export.policy import Policy, read_policy

    bf16 = "bf16" in arguments["precisions"]
    opset: int = arguments["opset"] or (BF16_OPSET if bf16 else DEFAULT_OPSET)
    if bf16 and opset < BF16_OPSET:
        raise click.UsageError(f"--opset {opset} has no bfloat16 Conv; take {BF16_OPSET} or later, or leave out bf16")
    policy = Policy() if arguments["policy"] is None else read_policy(arguments["policy"])
    with phases("reading the checkpoint" if seeded is None else f"making an untrained {seeded}"):
        source = load_source(checkpoint, seeded, preset, arguments["weights"])
    if source.note:
        note(f"Note: {source.note}.")
    size: tuple[int, int] = arguments["size"] or source.size or DEFAULT_SIZE
    if source.size and source.size != size:
        sizes = "trained at {}x{}; at {}x{}".format(*source.size, *size)
        note(f"Note: the checkpoint was {sizes} everything looks larger or smaller to it.")
    graphs = GraphOptions(
        *size,
        Limits(arguments["max_points"], arguments["max_batch"]),
        opset,
        arguments["with_routes"],
        policy,
    )
    options = Options(
        graphs,
        arguments["precisions"],
        arguments["name"],
        arguments["force"],
        verify=not arguments["no_verify"],
        images=arguments["images"],
    )
    exported = export_bundle(source, arguments["out"], options, phases)
    _summarise(exported, phases.seconds, console)
    if no_engines is None:
        from engines.cli import summarise
        from engines.pipeline import BuildOptions, build_engines

        low = tuple(p for p in exported.manifest.precisions if p not in ("fp32", "int8")) or ("fp32",)
        flavour = "rtx" if arguments["build"] == "rtx" else "tensorrt"
        build = BuildOptions(low, flavour=flavour, verify=options.verify)
        summarise(build_engines(exported.path, build, phases), console)
    elif arguments["build"] == "auto":
        message = f"No TensorRT engines: {no_engines}. On the machine that has both: spd-build {exported.path}"
        console.print(message, highlight=False, markup=False, soft_wrap=True)


def _why_no_engines(build: str) -> str | None:
    """Why no engine will be built, or None; an error now, before the export, if one must be."""
    if build == "no":
        return "not asked for"
    if build == "rtx":
        from spd.runtime.packages import import_tensorrt_rtx

        import_tensorrt_rtx()  # before minutes of exporting
        return None
    from spd.runtime.available import unavailable

    reason = unavailable("tensorrt")
    if reason is not None and build == "yes":
        raise BackendError(f"--build yes: {reason}")
    return reason


def _summarise(exported: Exported, seconds: float, console: Console) -> None:
    """The table at the end: what was written and how close it is to the model."""
    from rich.table import Table

    from export.accuracy import QuantisedResult
    from export.parity import ParityResult

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
        console.print(_table_of_rooms(quantised))
    if exported.skipped:
        images = f"{len(exported.skipped)} images were not calibrated on, such as: {exported.skipped[0]}"
        console.print(images, highlight=False, markup=False, soft_wrap=True)
    if not manifest.verified:
        console.print("Not verified: nothing proves that these graphs compute what the model computes.", soft_wrap=True)
    if not manifest.trained:
        only = " 8-bit graphs were judged by how much they change." if quantised else ""
        console.print(f"Untrained weights: the depths mean nothing.{only}", soft_wrap=True)
    console.print(f"Try it: spd-infer PHOTO --points grid:100 --engines {exported.path}", soft_wrap=True)


def _table_of_rooms(results: list[QuantisedResult]) -> Table:
    """What the gate of the 8-bit graphs measured."""
    from rich.table import Table

    from export.accuracy import ROOMS

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


if __name__ == "__main__":
    main()
