"""`spd-build`: from a bundle of ONNX graphs to engines of TensorRT or TensorRT for RTX, proven where there is a GPU."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from engines.inspection import DEMANDS
from spd.bundle.contract import PRECISIONS
from spd.bundle.plans import FLAVOURS, HARDWARE_LEVELS
from spd.commands.cli import Command, Memory, given_options
from spd.commands.places import check_folder
from spd.errors import BackendError
from spd.version import __version__

if TYPE_CHECKING:
    from rich.console import Console

    from engines.pipeline import Built

EPILOG = """
\b
Examples:
  spd-build engines/tiny-480x640
  spd-build engines/ --precision fp16 --precision bf16 --force
  spd-build engines/ --buckets 32,512 --workspace 2GiB --optimization-level 5
  spd-build engines/ --for rtx --compute 8.9,12.0      on any machine, for GeForce RTX 40 and 50
  spd-build engines/ --for rtx --compute 8.9,12.0 --precision fp8
  spd-build engines/ --for rtx --prove                 later, on the machine with the GPU

An engine of TensorRT is built on the GPU model that it will run on. An engine of TensorRT for RTX is built anywhere,
for compute capabilities. Either runs with the exact version that built it only.

An engine appears in the bundle only if its matrix products are in the asked precision, and, where a GPU can run it, if
its depths pass the gate of the export. Without a GPU it is compiled and not run, and the bundle says so.
"""

ONLY_TENSORRT = ("timing_cache", "hardware_compatibility")
"""Options that mean nothing to TensorRT for RTX."""


class Edges(click.ParamType):  # type: ignore[type-arg, unused-ignore] # generic from click 8.3 on
    """K of each bucket, such as 64,256,1024."""

    name = "K,K,..."

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Read "64,256" as (64, 256)."""
        if re.fullmatch(r"\d{1,7}(,\d{1,7})*", str(value)) is None:
            self.fail(f"{value!r} are not buckets: expected the largest K of each, such as 64,256,1024", param, ctx)
        edges = tuple(int(number) for number in str(value).split(","))
        if list(edges) != sorted({*edges} - {0}):
            self.fail(f"{value!r} are not buckets: expected numbers that rise from 1 on", param, ctx)
        return edges


class Capabilities(click.ParamType):  # type: ignore[type-arg, unused-ignore] # generic from click 8.3 on
    """Compute capabilities, such as 8.6,8.9."""

    name = "N.N,N.N,..."

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Read "8.6,8.9" as ("8.6", "8.9")."""
        from engines.rtx import check_capability

        found = tuple(dict.fromkeys(text.strip() for text in str(value).split(",")))
        for capability in found:
            try:
                check_capability(capability)
            except BackendError as error:
                self.fail(str(error), param, ctx)
        return found


@click.command(cls=Command, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--for",
    "flavour",
    type=click.Choice(FLAVOURS),
    default="tensorrt",
    show_default=True,
    help="The library that will run the engines: TensorRT, or TensorRT for RTX.",
)
@click.option(
    "--compute",
    type=Capabilities(),
    help="Compute capabilities, for rtx; only those that you need make faster engines.  [default: 8.0,8.6,8.9,12.0: "
    "GeForce RTX 30, 40 and 50]",
)
@click.option(
    "--precision",
    "precisions",
    type=click.Choice([p for p in PRECISIONS if p != "int8"]),  # whose graphs are for CPUs
    multiple=True,
    help="Repeatable.  [default: fp16, or fp32 in a bundle without it]",
)
@click.option("--buckets", "edges", type=Edges(), help="K of each decoder profile.  [default: 64,256,1024]")
@click.option(
    "--max-batch",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Images per call of the encoder; more than one take a profile of their own, for other runtimes than SPD's.",
)
@click.option("--workspace", type=Memory(), help="Scratch memory for one layer.  [default: all of the GPU's]")
@click.option(
    "--optimization-level",
    type=click.IntRange(0, 5),
    default=3,
    show_default=True,
    help="0 builds fastest, 5 searches longest.",
)
@click.option(
    "--timing-cache", metavar="FOLDER|none", help="Timings kept between builds.  [default: the user's cache folder]"
)
@click.option(
    "--hardware-compatibility",
    type=click.Choice(HARDWARE_LEVELS),
    default="none",
    show_default=True,
    help="GPUs that may run the engines besides this model; slower.",
)
@click.option("--no-verify", is_flag=True, help="Skip the comparison with the PyTorch model; the manifest says so.")
@click.option("--prove", is_flag=True, help="Build nothing: run the bundle's engines on this GPU and record the proof.")
@click.option(
    "--inspection",
    type=click.Choice(DEMANDS),
    help="Report engines whose layers do not show their precision, or require that they do; a layer in another "
    "precision is always refused.  [default: report; require with --no-verify]",
)
@click.option("--force", is_flag=True, help="Replace engines of the same library and precision.")
@click.option("-v", "--verbose", is_flag=True, help="Show what TensorRT says.")
@click.version_option(__version__, prog_name="spd-build")
@click.pass_context
def main(context: click.Context, /, bundle: Path, **arguments: Any) -> None:
    """Build engines for BUNDLE, a folder made by spd-export.

    TensorRT builds them on the GPU that they will run on, TensorRT for RTX on any machine.
    """
    flavour: str = arguments["flavour"]
    if arguments.pop("prove"):
        _prove(context, bundle, flavour, arguments["precisions"])
        return
    compute: tuple[str, ...] | None = arguments.pop("compute")
    if compute is not None and flavour != "rtx":
        raise click.UsageError("--compute goes with --for rtx; TensorRT builds for the GPU at hand")
    if flavour == "rtx" and (given := given_options(context, ONLY_TENSORRT)):
        raise click.UsageError(f"{given[0]} is for TensorRT; leave it out with --for rtx")

    # rich and numpy are imported only now: --help is to be instant.
    from rich.console import Console

    from engines.builder import PlanOptions
    from engines.pipeline import BuildOptions, build_engines
    from spd.cache_files import user_cache_folder
    from spd.commands.progress import Phases

    cache: str | None = arguments.pop("timing_cache")
    folder = user_cache_folder() if cache is None else None if cache == "none" else Path(cache)
    if cache is not None and folder is not None:
        check_folder(folder, "--timing-cache")
    verify = not arguments.pop("no_verify")
    plan = PlanOptions(
        **{key: arguments.pop(key) for key in ("workspace", "optimization_level", "hardware_compatibility")}
    )
    console = Console(stderr=True)
    options = BuildOptions(
        plan=plan, timing_cache=folder, verify=verify, compute_capabilities=compute or (), **arguments
    )
    summarise(build_engines(bundle, options, Phases(console)), console)


def _prove(context: click.Context, bundle: Path, flavour: str, precisions: tuple[str, ...]) -> None:
    """Run what is there; options of a build are refused."""
    other = [str(name) for name in context.params if name not in ("bundle", "flavour", "precisions", "prove")]
    if given := given_options(context, other):
        raise click.UsageError(f"--prove builds nothing: leave out {given[0]}")
    from rich.console import Console

    from engines.pipeline import prove_engines
    from spd.commands.progress import Phases

    console = Console(stderr=True)
    for proof in prove_engines(bundle, flavour, precisions, Phases(console)):
        console.print(
            f"{proof.precision} is proven: largest error {proof.max_error:.1e}, mean error {proof.mean_error:.1e}",
            soft_wrap=True,
            highlight=False,
        )


def summarise(built: Built, console: Console) -> None:
    """The tables at the end: what was built, how close it is to the model, and what each profile takes."""
    from rich.table import Table

    engines, profiles = Table(title=str(built.path), title_justify="left"), Table()
    for column in ("engine", "size", "build", "in precision", "largest error", "mean error"):
        engines.add_column(column, justify="left" if column == "engine" else "right", no_wrap=True)
    for column in ("profile", "K", "kernels", "MB moved", "MB of scratch memory"):
        profiles.add_column(column, justify="left" if column == "profile" else "right", no_wrap=True)
    proofs = {proof.precision: proof for proof in built.proofs}
    for plan in built.plans:
        record = plan.record
        name = f"{record.graph} {record.precision}"
        proof = proofs.get(record.precision)
        errors = ["not run", "not run"] if proof is None else [f"{proof.max_error:.1e}", f"{proof.mean_error:.1e}"]
        size = f"{built.manifest.files[record.file].bytes / 1e6:.1f} MB"
        engines.add_row(name, size, f"{plan.seconds:.0f} s", f"{plan.inspection.share:.1%}", *errors)
        for facts in plan.profiles:
            points = "" if facts.profile.points is None else str(facts.profile.points[2])
            moved = "" if facts.moved_bytes is None else f"{facts.moved_bytes / 1e6:.1f}"
            kernels = "" if facts.kernels is None else str(facts.kernels)
            profiles.add_row(name, points, kernels, moved, f"{facts.scratch_bytes / 1e6:.1f}")
    console.print(engines, profiles)
    _advise(built, console)


def _advise(built: Built, console: Console) -> None:
    """What to know of the engines, and what to do next."""
    from engines.counts import compare_builds
    from engines.publish import read_report
    from spd.bundle import Bundle

    islands = sum(len(plan.inspection.islands) for plan in built.plans)
    lines = [f"{islands} layers are float32 on purpose; engines.json lists them."] if islands else []
    library, precision = built.library, built.plans[0].record.precision
    report = read_report(Bundle(built.path, built.manifest)).get(library.flavour, {})
    compared = [compare_builds(report, each) for each in dict.fromkeys(p.record.precision for p in built.plans)]
    lines += [line for line in compared if line is not None]
    if built.proofs:
        lines.append(
            f"Try it: spd-infer PHOTO --points grid:100 --engines {built.path} --backend {built.library.backend}"
        )
    else:
        lines.append(
            f"Compiled, not run ({built.not_run}): nothing proves that these engines compute what the model does. On "
            f"a machine with the GPU: {library.prove_command(built.path, precision)}"
        )
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=False)


if __name__ == "__main__":
    main()
