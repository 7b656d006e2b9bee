"""`spd-build`: from a bundle of ONNX graphs to proven TensorRT engines for the GPU at hand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from engines.inspection import DEMANDS
from spd.bundle.contract import PRECISIONS
from spd.bundle.plans import HARDWARE_LEVELS
from spd.commands.cli import Command
from spd.commands.places import check_folder
from spd.errors import InputError
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

An engine runs on the GPU model and the TensorRT version it was built with. It appears in the bundle only if the
inspector shows its matrix products in the asked precision and its depths pass the gate of the export.
"""


class Memory(click.ParamType):  # type: ignore[type-arg, unused-ignore] # generic from click 8.3 on
    """Bytes, such as 512MiB; at least one KiB, as a number without its unit is rarely meant to be bytes."""

    name = "SIZE"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read "4GiB" as 4294967296."""
        from spd.runtime.residency import parse_bytes  # numpy

        try:
            size = parse_bytes(str(value))
        except InputError as error:
            self.fail(str(error), param, ctx)
        if size < 1024:
            self.fail(f"{value!r} are {size} bytes, which is too little; give a unit, such as 4GiB", param, ctx)
        return size


class Edges(click.ParamType):  # type: ignore[type-arg, unused-ignore] # generic from click 8.3 on
    """Largest K of each bucket, such as 64,256,1024."""

    name = "K,K,..."

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Read "64,256" as (64, 256)."""
        if re.fullmatch(r"\d{1,7}(,\d{1,7})*", str(value)) is None:
            self.fail(f"{value!r} are not buckets: expected the largest K of each, such as 64,256,1024", param, ctx)
        edges = tuple(int(number) for number in str(value).split(","))
        if list(edges) != sorted({*edges} - {0}):
            self.fail(f"{value!r} are not buckets: expected numbers that rise from 1 on", param, ctx)
        return edges


@click.command(cls=Command, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--precision",
    "precisions",
    type=click.Choice(PRECISIONS),
    multiple=True,
    help="Repeatable.  [default: fp16, or fp32 in a bundle without it]",
)
@click.option("--buckets", "edges", type=Edges(), help="Largest K of each decoder profile.  [default: 64,256,1024]")
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
@click.option("--no-verify", is_flag=True, help="Skip the comparison with the float32 graphs; the manifest says so.")
@click.option(
    "--inspection",
    type=click.Choice(DEMANDS),
    help="Report engines whose layers do not show their precision, or require that they do; a layer in another "
    "precision is always refused.  [default: report; require with --no-verify]",
)
@click.option("--force", is_flag=True, help="Replace engines of the same precision.")
@click.option("-v", "--verbose", is_flag=True, help="Show what TensorRT says.")
@click.version_option(__version__, prog_name="spd-build")
def main(bundle: Path, **arguments: Any) -> None:
    """Build TensorRT engines for BUNDLE, a folder made by spd-export, on the GPU they will run on."""
    # rich and numpy are imported only now: --help is to be instant.
    from rich.console import Console

    from engines.builder import PlanOptions
    from engines.pipeline import BuildOptions, build_engines
    from engines.timing_cache import default_folder
    from spd.commands.progress import Phases

    cache: str | None = arguments.pop("timing_cache")
    folder = default_folder() if cache is None else None if cache == "none" else Path(cache)
    if cache is not None and folder is not None:
        check_folder(folder, "--timing-cache")
    verify = not arguments.pop("no_verify")
    plan = PlanOptions(
        **{key: arguments.pop(key) for key in ("workspace", "optimization_level", "hardware_compatibility")}
    )
    console = Console(stderr=True)
    options = BuildOptions(plan=plan, timing_cache=folder, verify=verify, **arguments)
    summarise(build_engines(bundle, options, Phases(console)), console)


def summarise(built: Built, console: Console) -> None:
    """The table at the end: what was built, in which precision it computes, and how close it is to float32."""
    from rich.table import Table

    table = Table(title=str(built.path), title_justify="left")
    for column in ("engine", "size", "built in", "in precision", "largest error", "mean error"):
        table.add_column(column, justify="left" if column == "engine" else "right", no_wrap=True)
    proofs = {proof.precision: proof for proof in built.proofs}
    for plan in built.plans:
        record = plan.record
        errors = ["not verified"] * 2
        if (proof := proofs.get(record.precision)) is not None:
            errors = [f"{proof.max_error:.1e}", f"{proof.mean_error:.1e}"]
        size = f"{built.manifest.files[record.file].bytes / 1e6:.1f} MB"
        table.add_row(
            f"{record.graph} {record.precision}", size, f"{plan.seconds:.0f} s", f"{plan.inspection.share:.1%}", *errors
        )
    console.print(table)
    islands = sum(len(plan.inspection.islands) for plan in built.plans)
    if islands:
        console.print(f"{islands} layers are float32 on purpose; engines.json lists them.", soft_wrap=True)
    if not built.proofs:
        console.print("Not verified: nothing proves that these engines compute what the model does.", soft_wrap=True)
    console.print(
        f"Try it: spd-infer PHOTO --points grid:100 --engines {built.path} --backend tensorrt", soft_wrap=True
    )


if __name__ == "__main__":
    main()
