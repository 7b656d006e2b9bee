"""`spd-profile`: where the time of a bundle goes, by the paper's blocks, and how far each is from what must be."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spd.bundle.contract import BACKENDS, PRECISIONS, QUANTISED
from spd.commands.cli import Command, given_options, note, write_stdout
from spd.commands.places import writable
from spd.version import __version__

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Console

    from spd.bundle import Bundle

DEFAULT_POINTS = 256

EPILOG = """
\b
Examples:
  spd-profile engines/
  spd-profile engines/ --points 1024 --threads 1 --out profile.json --picture profile.png
  spd-profile engines/ --backend tensorrt --precision fp16 --peak-gflops 800000 --bandwidth 3350
  spd-profile engines/ --precision fp16 --trtexec
  spd-profile engines/ --polygraphy --points 64
  spd-profile engines/ --kernels --compute 12.0 --picture kernels.png

A block's floor is the longer of its multiply-accumulates at the machine's matrix-product rate, and of its weights and
what enters and leaves it at the machine's bandwidth. Both rates are measured, unless they are given.

--kernels needs no GPU: TensorRT for RTX compiles the graphs for one, and its kernels are counted, not run. Times are
predicted for a few GPUs from their data sheets.
"""

COMPUTE = "8.9"
RUN_ONLY = ("backend", "runs", "threads", "peak_gflops", "bandwidth")
"""Options about running the graphs."""


@click.command(cls=Command, extra="profile", epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--backend",
    type=click.Choice([backend for backend in BACKENDS if backend not in ("openvino", "torch")]),
    default="onnxruntime-cpu",
    show_default=True,
    help="What runs the graphs.",
)
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    help="Precision of the graphs.  [default: fp32; fp16 with --kernels]",
)
@click.option(
    "--points", type=click.IntRange(1), metavar="K", help="Points per call.  [default: 256; all buckets for the lines]"
)
@click.option("--runs", type=click.IntRange(1, 1000), default=20, show_default=True, help="Runs that count.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads of onnxruntime-cpu.  [default: all cores]")
@click.option(
    "--peak-gflops", type=click.FloatRange(0, min_open=True), help="Rate of the machine, GFLOP/s; 1 MAC is 2 FLOP."
)
@click.option("--bandwidth", type=click.FloatRange(0, min_open=True), help="Bandwidth of the machine, GB/s.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=writable(".json"),
    metavar="FILE.json",
    help="Write everything, operator by operator, or kernel by kernel.",
)
@click.option(
    "--picture",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=writable(".png"),
    metavar="FILE.png",
    help="Draw a bar of blocks for each graph.",
)
@click.option("--trtexec", is_flag=True, help="Print trtexec's command lines instead, and run them if it is on PATH.")
@click.option("--polygraphy", is_flag=True, help="Print Polygraphy's command lines instead.")
@click.option("--kernels", is_flag=True, help="Compile for an RTX GPU instead, and count kernels and bytes.")
@click.option("--compute", metavar="N.N", help=f"Compute capability that --kernels compiles for.  [default: {COMPUTE}]")
@click.version_option(__version__, prog_name="spd-profile")
@click.pass_context
def main(
    context: click.Context,
    /,
    bundle: Path,
    trtexec: bool,
    polygraphy: bool,
    kernels: bool,
    compute: str | None,
    precision: str | None,
    **arguments: Any,
) -> None:
    """Show where the time of BUNDLE, a folder made by spd-export, goes: operators grouped by the paper's blocks."""
    if trtexec and polygraphy:
        raise click.UsageError("--trtexec and --polygraphy print different lines; give one of them")
    if kernels:
        _refuse_run_options(context, trtexec or polygraphy)
        places = {name: arguments[name] for name in ("out", "picture")}
        _kernels(bundle, precision or "fp16", arguments["points"] or DEFAULT_POINTS, compute or COMPUTE, **places)
        return
    if compute is not None:
        raise click.UsageError("--compute is for --kernels")
    precision = precision or "fp32"
    if trtexec or polygraphy:
        # numpy, onnx and rich are imported only where they are needed: --help is to be instant.
        from spd.bundle import open_bundle

        show_lines = _trtexec_lines if trtexec else _polygraphy_lines
        show_lines(open_bundle(bundle), precision, arguments["points"])
        return
    _profile(bundle, precision=precision, **arguments)


def _refuse_run_options(context: click.Context, printing: bool) -> None:
    """Options that mean nothing where nothing is run."""
    given = given_options(context, RUN_ONLY)
    if printing or given:
        what = given[0] if given else "--trtexec and --polygraphy"
        raise click.UsageError(f"--kernels compiles the graphs and runs nothing: leave out {what}")


def _kernels(bundle: Path, precision: str, points: int, compute: str, out: Path | None, picture: Path | None) -> None:
    from rich.console import Console

    from engines.counts import BESIDE, counts_line
    from engines.profile.compiled import compile_bundle
    from engines.profile.kernel_report import show
    from spd.commands.progress import Phases

    if picture is not None:
        from engines.profile.kernel_picture import draw  # what it needs may be missing: known before anything compiles
    if precision == "int8":
        raise click.UsageError("int8 graphs are for CPUs; --kernels takes int8-fp16 or fp8")
    phases = Phases(Console(stderr=True))
    report = compile_bundle(bundle, precision, points, phases, compute)
    document = report.as_dict()
    beside = None
    if precision in QUANTISED and BESIDE in report.bundle.manifest.precisions:
        counted = compile_bundle(bundle, BESIDE, points, phases, compute).counts
        beside = counts_line(precision, report.counts, counted)
        document["beside"] = {BESIDE: [asdict(counts) for counts in counted]}
    if out is not None:
        _write_json(out, document)
    if picture is not None:
        _write_picture(picture, draw(report))
    _print(partial(show, report, beside), 160)


def _profile(
    bundle: Path,
    out: Path | None,
    picture: Path | None,
    peak_gflops: float | None,
    bandwidth: float | None,
    **arguments: Any,
) -> None:
    from rich.console import Console

    from engines.profile.report import show
    from engines.profile.run import profile
    from engines.profile.times import Settings
    from spd.commands.progress import Phases

    if picture is not None:
        from engines.profile.picture import draw  # what it needs may be missing: known before anything is measured
    # Drawing a bar ten times a second would take time from what is measured.
    phases = Phases(Console(stderr=True), live=False)
    settings = Settings(**{**arguments, "points": arguments["points"] or DEFAULT_POINTS})
    report = profile(
        bundle,
        settings,
        phases,
        None if peak_gflops is None else peak_gflops * 1e9,
        None if bandwidth is None else bandwidth * 1e9,
    )
    if out is not None:
        _write_json(out, report.as_dict())
    if picture is not None:
        _write_picture(picture, draw(report))
    _print(partial(show, report), 120)


def _print(show: Callable[[Console], None], width: int) -> None:
    """Print tables, `width` characters wide where there is no terminal."""
    from rich.console import Console

    console = Console()
    console = console if console.is_terminal else Console(width=width)
    with console.capture() as captured:
        show(console)
    write_stdout(captured.get().encode(console.encoding, "replace"))


def _write_picture(path: Path, made: Figure) -> None:
    from spd.files import write_atomically
    from spd.utils.plots import write_png

    with write_atomically(path) as file:
        write_png(made, file)


def _write_json(path: Path, document: dict[str, Any]) -> None:
    from spd.files import write_atomically

    with write_atomically(path) as file:
        file.write((json.dumps(document, indent=2) + "\n").encode())


def _trtexec_lines(bundle: Bundle, precision: str, points: int | None) -> None:
    from engines.profile import lines

    found = lines.cases(bundle, precision, points)
    for version in lines.VERSIONS:
        printed = [lines.shell(lines.trtexec(bundle, precision, case, version)) for case in found]
        write_stdout(("\n".join([f"# TensorRT {version}", *printed]) + "\n").encode())
    installed = lines.installed_trtexec()
    if installed is None:
        note("trtexec is not on PATH: run the lines on the machine with the GPU. Its inputs are random.")
        return
    path, version = installed
    for case in found:
        lines.run([path, *lines.trtexec(bundle, precision, case, version)[1:]])


def _polygraphy_lines(bundle: Bundle, precision: str, points: int | None) -> None:
    from engines.profile import lines
    from spd.bundle import GRAPHS

    found = lines.cases(bundle, precision, points)
    sections: dict[str, list[list[str]]] = {}
    if precision == "bf16":
        note("No lines that compare bf16, because numpy has no bfloat16: take --precision fp32 or fp16 for these.")
    else:
        for title, tensorrt in (("ONNX Runtime alone", False), ("TensorRT against ONNX Runtime, on a GPU", True)):
            sections[title] = [lines.polygraphy(bundle, precision, case, tensorrt) for case in found]
    sections["TensorRT for RTX, compiled without a GPU; Polygraphy leaves TF32 on"] = [
        line for graph in GRAPHS for line in lines.polygraphy_rtx(bundle, precision, graph, found, COMPUTE)
    ]
    for title, printed in sections.items():
        write_stdout(("\n".join([f"# {title}", *map(lines.shell, printed)]) + "\n").encode())


if __name__ == "__main__":
    main()
