"""`python -m tools.ladder`: what each preset costs, in a table and a picture by which to choose one.

Multiply-accumulates are those of the float32 graphs, the form for CPUs. Kernels, and the bytes that they read and
write, are what TensorRT for RTX makes of the float16 graphs, as `spd-profile --kernels` counts them. Times are those of
float32 on ONNX Runtime's CPU provider, measured as in `tools.bench`: the presets take turns, each in a process of its
own.
"""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spd.commands.cli import Command, Size, given_options, write_stdout
from spd.commands.places import writable
from spd.config import DEFAULT_SIZE, PRESETS
from spd.errors import BackendError, SPDError

if TYPE_CHECKING:
    from spd.commands.progress import Phases
    from tools.ladder_report import Rung

POINTS = 256
PRECISIONS = ("fp32", "fp16")
CACHE = Path("build/bench/ladder")

EPILOG = """
\b
Examples:
  python -m tools.ladder --json ladder.json --plot ladder.png
  python -m tools.ladder --preset femto --preset pico --size 256x320 --no-kernels
  python -m tools.ladder --no-times

Markdown goes to standard output, progress to standard error. Nothing else should run while times are measured. The
first run exports all presets, which takes minutes; later ones take them from --cache.
"""


@click.command(cls=Command, extra="export", epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--preset", "presets", type=click.Choice(PRESETS), multiple=True, help="Only these; repeatable.")
@click.option("--size", type=Size(), default="{}x{}".format(*DEFAULT_SIZE), show_default=True, help="Image size.")
@click.option("--rounds", type=click.IntRange(1, 1000), default=15, show_default=True, help="Turns of each preset.")
@click.option("--threads", type=click.IntRange(1), help="Cores, and threads on them.  [default: all cores]")
@click.option("--no-times", is_flag=True, help="Measure no times.")
@click.option("--no-kernels", is_flag=True, help="Compile nothing for a GPU.")
@click.option(
    "--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), callback=writable(".json"),
    metavar="FILE.json", help="Write everything.",
)  # fmt: skip
@click.option(
    "--plot", "plot_path", type=click.Path(dir_okay=False, path_type=Path), callback=writable(".png"),
    metavar="FILE.png", help="Draw times against multiply-accumulates, and against bytes if they are counted.",
)  # fmt: skip
@click.option(
    "--cache", type=click.Path(file_okay=False, path_type=Path), default=CACHE, show_default=True,
    help="Keeps what was exported.",
)  # fmt: skip
@click.pass_context
def main(context: click.Context, /, json_path: Path | None, plot_path: Path | None, **arguments: Any) -> None:
    """Show what the presets cost: parameters, arithmetic, files, kernels and bytes on a GPU, times on this CPU."""
    needs_times = given_options(context, ("rounds", "threads", "plot_path"))
    if arguments["no_times"] and needs_times:
        raise click.UsageError(f"--no-times measures no times: leave out {needs_times[0]}")

    # numpy, torch and the rest are imported only now: --help is to be instant.
    from rich.console import Console

    from spd.commands.progress import Phases
    from spd.files import write_atomically
    from tools.ladder_report import draw, markdown

    if plot_path is not None:
        from spd.utils.plots import write_png  # what it needs may be missing: known before anything is measured
    rungs, about = climb(
        arguments, Phases(Console(stderr=True), live=False)
    )  # a bar would take time from what is timed
    if json_path is not None:
        document = {"format": "spd-ladder", "format_version": 1, **about, "presets": [asdict(rung) for rung in rungs]}
        with write_atomically(json_path) as file:
            file.write((json.dumps(document, indent=1, allow_nan=False) + "\n").encode())
    if plot_path is not None:
        with write_atomically(plot_path) as file:
            write_png(draw(rungs, about), file)
    write_stdout(markdown(rungs, about).encode())


def climb(arguments: dict[str, Any], phases: Phases) -> tuple[list[Rung], dict[str, Any]]:
    """Export, count and measure what the command's arguments ask for.

    Returns:
        What each preset costs; and where, when and how that was found, for JSON.

    Raises:
        SPDError: a preset cannot be exported, or cannot run.
    """
    from engines.rtx import DEFAULT_COMPUTE_CAPABILITY, rtx_compiler
    from tools.bench.machine import BUSY, describe, load_average, now, pin, versions

    load, threads, times = load_average(), pin(arguments["threads"]), not arguments["no_times"]
    notes = ["untrained weights, exported without verification; costs do not depend on them"]
    if times and load is not None and load > BUSY:
        notes.append(f"something else was running (load average {load:.1f} before the start): do not use these times")
    compiler = None
    if not arguments["no_kernels"]:
        try:
            compiler = rtx_compiler(DEFAULT_COMPUTE_CAPABILITY).name
        except BackendError as error:
            notes.append(f"kernels are not counted: {error}")
    presets = [name for name in PRESETS if name in arguments["presets"] or not arguments["presets"]]
    bundles = {name: exported(name, arguments["size"], arguments["cache"], phases) for name in presets}
    rungs = [count(name, bundle, compiler is not None, phases) for name, bundle in bundles.items()]
    if times:
        rungs = measure_times(rungs, bundles, threads, arguments["rounds"], phases)
    return rungs, {
        "date": now(),
        "command": shlex.join(["python", "-m", "tools.ladder", *sys.argv[1:]]),
        "size": arguments["size"],
        "points": POINTS,
        "rounds": arguments["rounds"] if times else 0,
        "compiler": compiler and f"{compiler}, compute capability {DEFAULT_COMPUTE_CAPABILITY}",
        "machine": describe(threads, load, None),
        "versions": versions(),
        "notes": notes,
    }


def exported(preset: str, size: tuple[int, int], cache: Path, phases: Phases) -> Path:
    """The bundle of a preset for a size, height and width in pixels; it is made unless the cache has it."""
    from tools.bench.graphs import Wanted
    from tools.bench.worker import Worker, WorkerError

    folder = Wanted("spd", PRESETS[preset], *size).folder(cache)
    if not folder.is_dir():
        with phases(f"exporting {preset} into {cache}"), Worker(export, preset, size, folder) as worker:
            try:
                worker.made()
            except WorkerError as error:
                raise SPDError(f"{preset} cannot be exported: {error}") from error
    return folder


def export(preset: str, size: tuple[int, int], folder: Path) -> None:
    """Do what `spd-export --seed-checkpoint PRESET --no-verify` does, in place of older bundles beside the folder."""
    from rich.console import Console

    from export.graphs import GraphOptions
    from export.pipeline import Options, export_bundle, load_source
    from spd.commands.progress import Phases

    shutil.rmtree(folder.parent, ignore_errors=True)
    folder.parent.mkdir(parents=True)
    options = Options(GraphOptions(*size), PRECISIONS, folder.name, verify=False)
    export_bundle(load_source(None, preset, None), folder.parent, options, Phases(Console(file=sys.stderr)))


def count(preset: str, folder: Path, on_gpu: bool, phases: Phases) -> Rung:
    """Count what a bundle costs; the kernels only if `on_gpu`."""
    import torch

    from engines.profile.compiled import compile_bundle
    from spd.bundle import GRAPHS, open_bundle
    from spd.models import SPD
    from spd.runtime.backend import cache_nbytes
    from tools.bench.macs import macs_of_file
    from tools.ladder_report import Rung

    bundle = open_bundle(folder)
    manifest = bundle.manifest
    encoder, decoder = (bundle.graph(graph, "fp32") for graph in GRAPHS)
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in SPD(manifest.config).parameters())
    rung = Rung(
        preset,
        parameters,
        encoder_macs=macs_of_file(encoder),
        decoder_macs_per_point=macs_of_file(decoder, points=2) - macs_of_file(decoder, points=1),
        graph_bytes={p: sum(manifest.files[name].bytes for name in manifest.graphs[p].values()) for p in PRECISIONS},
        scene_bytes={p: cache_nbytes(manifest.contract, p) for p in PRECISIONS},
    )
    if not on_gpu:
        return rung
    first, second = (graph.total for graph in compile_bundle(folder, "fp16", POINTS, phases).graphs)
    return replace(rung, kernels=(first.kernels, second.kernels), moved_bytes=(first.bytes, second.bytes))


def measure_times(rungs: list[Rung], bundles: dict[str, Path], threads: int, rounds: int, phases: Phases) -> list[Rung]:
    """The rungs with their times."""
    from engines.profile.run import inputs as make_inputs
    from spd.bundle import open_bundle
    from tools.bench.measure import Candidate, measure
    from tools.bench.ratios import totals
    from tools.bench.rows import Row
    from tools.bench.spread import Spread
    from tools.bench.subject import ENCODE, Inputs
    from tools.bench.subjects import make_subject

    candidates = []
    for rung in rungs:
        folder = bundles[rung.preset]
        size = open_bundle(folder).manifest.height, open_bundle(folder).manifest.width
        macs = {ENCODE: rung.encoder_macs, POINTS: rung.decoder_macs_per_point * POINTS}
        args = Row("spd", "onnxruntime-cpu"), folder, Inputs(*make_inputs(*size, POINTS), threads)
        candidates.append(Candidate(Row(rung.preset, "fp32"), *size, tuple(macs), macs, make_subject, args))
    measured, skipped = measure(candidates, rounds, lambda text: phases.say(f"{phases.seconds:6.1f} s  {text}"))
    if skipped:
        raise SPDError("; ".join(f"{one.row} cannot be measured: {one.reason}" for one in skipped))
    return [
        replace(rung, encode_ms=Spread.of(one.turns[ENCODE]), total_ms=Spread.of(totals(one, POINTS)))
        for rung, one in zip(rungs, measured, strict=True)
    ]


if __name__ == "__main__":
    main()
