"""`spd-export`: from a checkpoint to a verified bundle."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import click

from spd.bundle.contract import PRECISIONS, QUANTISED
from spd.commands.cli import Command, Size, checkpoint_weights, given_options, note
from spd.config import DEFAULT_SIZE, PRESETS
from spd.errors import BackendError
from spd.files import CHECKPOINT_SUFFIXES, why_no_checkpoint
from spd.version import __version__

EPILOG = """
\b
Examples:
  spd-export --ckpt model.pt --out engines/
  spd-export --ckpt model.pt --out engines/ --size 256x320 --precision fp16 --precision bf16
  spd-export --ckpt model.pt --out engines/ --precision int8 --images photos/
  spd-export --seed-checkpoint atto --out engines/     try the tools without a checkpoint
  spd-export --from-onnx quantised/ --precision fp8 --out engines/tiny-480x640

A bundle is engines/<preset>-<H>x<W>/ with encoder and decoder as ONNX in every precision, manifest.json, parity.json,
the comparison with the PyTorch model, and gate.npz, what it was compared with. It appears only if the graphs pass.
"""


FOREIGN = ("from_onnx", "precisions", "out", "force")
"""Options that go with --from-onnx."""

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
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder that gets the bundle; with --from-onnx, the bundle.",
)
@click.option("--name", help="Name of the bundle's folder.  [default: <preset>-<H>x<W>]")
@click.option("--size", type=Size(), help=SIZE_HELP)
@click.option(
    "--precision",
    "precisions",
    type=click.Choice(PRECISIONS),
    multiple=True,
    default=("fp32", "fp16"),
    show_default=True,
    help="Repeatable; fp32, the reference, is always written. int8 is for CPUs, int8-fp16 and fp8 for TensorRT.",
)
@click.option(
    "--images",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder of photos to calibrate 8-bit graphs on.  [default: rendered rooms]",
)
@click.option(
    "--from-onnx",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder of an encoder.onnx and a decoder.onnx that were quantised elsewhere, for the bundle --out.",
)
@click.option(
    "--max-points", type=click.IntRange(1, 1 << 20), default=4096, show_default=True, help="Most points per call."
)
@click.option("--max-batch", type=click.IntRange(1, 256), default=8, show_default=True, help="Most images per call.")
@click.option("--opset", type=click.IntRange(18, 23), help="ONNX opset.  [default: 20; 21 with fp8, 22 with bf16]")
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
@click.pass_context
def main(context: click.Context, /, **arguments: Any) -> None:
    """Export an SPD checkpoint to two verified ONNX graphs, an encoder and a decoder."""
    foreign: Path | None = arguments.pop("from_onnx")
    if foreign is not None:
        _add_graphs(context, foreign, arguments["precisions"], arguments["out"], arguments["force"])
        return
    checkpoint: Path | None = arguments["ckpt"]
    seeded: str | None = arguments["seed_checkpoint"]
    preset: str | None = arguments["preset"]
    check_source(checkpoint, seeded, preset, arguments["weights"])
    if arguments["images"] is not None and not QUANTISED.keys() & {*arguments["precisions"]}:
        raise click.UsageError(f"--images goes with --precision {' or '.join(QUANTISED)}")

    # rich and torch are imported only now: they would make --help take seconds.
    from rich.console import Console

    from spd.commands.progress import Phases

    no_engines = _why_no_engines(arguments["build"], arguments["precisions"])
    console = Console(stderr=True)
    phases = Phases(console)
    with phases("loading torch"):
        importlib.import_module("export.pipeline")
    from export.graphs import GraphOptions, Limits
    from export.pipeline import Options, export_bundle, load_source
    from export.policy import Policy, read_policy
    from export.summary import summarise_export

    opset = _opset(arguments["opset"], arguments["precisions"])
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
    summarise_export(exported, phases.seconds, console)
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


def _add_graphs(context: click.Context, source: Path, precisions: tuple[str, ...], into: Path, force: bool) -> None:
    """Put graphs that were quantised elsewhere into a bundle."""
    other = [str(name) for name in context.params if name not in FOREIGN]
    if given := given_options(context, other):
        raise click.UsageError(f"--from-onnx takes all else from the bundle: leave out {given[0]}")
    if len(precisions) != 1 or precisions[0] not in QUANTISED:
        raise click.UsageError(f"--from-onnx goes with one --precision of {', '.join(QUANTISED)}")
    from rich.console import Console

    from spd.commands.progress import Phases

    console = Console(stderr=True)
    phases = Phases(console)
    with phases("loading torch"):
        importlib.import_module("export.pipeline")
    from export.foreign import add_graphs
    from export.summary import table_of_rooms

    added = add_graphs(source, precisions[0], into, force, phases)
    console.print(table_of_rooms([added.result]))
    console.print(f"{added.path} has {precisions[0]} graphs now.", soft_wrap=True, highlight=False, markup=False)


def _opset(asked: int | None, precisions: tuple[str, ...]) -> int:
    """The opset that was asked for, or the first that has what the precisions need."""
    from export.graphs import DEFAULT_OPSET, LEAST_OPSETS

    for precision in precisions:
        least = LEAST_OPSETS.get(precision, 0)
        if asked is not None and asked < least:
            raise click.UsageError(f"--opset {asked} is too early for {precision}; take {least} or later")
    return asked or max(DEFAULT_OPSET, *(LEAST_OPSETS.get(precision, 0) for precision in precisions))


def _why_no_engines(build: str, precisions: tuple[str, ...]) -> str | None:
    """Why no engine will be built, or None; an error now, before the export, if one must be."""
    if build == "no":
        return "not asked for"
    from engines.rtx import FP8_ADVICE, PORTABLE, check_fp8
    from spd.runtime.tensorrt.cuda import current_target

    if build == "rtx":
        from spd.runtime.packages import import_tensorrt_rtx

        # Before minutes of exporting.
        check_fp8(precisions, PORTABLE, f"take --build no, then: spd-build BUNDLE --for rtx; {FP8_ADVICE}")
        import_tensorrt_rtx()
        return None
    from spd.runtime.available import unavailable

    reason = unavailable("tensorrt")
    if reason is None and "fp8" in precisions:
        try:
            check_fp8(precisions, (current_target().compute_capability,), "take int8-fp16")
        except BackendError as error:
            reason = str(error)
    if reason is not None and build == "yes":
        raise BackendError(f"--build yes: {reason}")
    return reason


if __name__ == "__main__":
    main()
