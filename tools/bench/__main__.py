"""`python -m tools.bench`: how long encoding and reading K points take here, against what else there is."""

from __future__ import annotations

import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import click

from spd.commands.cli import Command, Size, note, write_stdout
from spd.commands.places import writable
from spd.config import PRESETS

ROUNDS, QUICK_ROUNDS = 15, 3
CACHE = Path("build/bench")

EPILOG = """
\b
Examples:
  python -m tools.bench --json bench.json --plot bench.png
  python -m tools.bench --quick
  python -m tools.bench --bundle engines/tiny-480x640 --rows 'spd/*' --rows dav2s
  python -m tools.bench --preset atto --rows 'spd/*:int8' --rows yolo26n
  python -m tools.bench --growth

Markdown goes to standard output, progress to standard error. Ratios, with their spread over the rounds, are the result;
nothing else should run meanwhile. The first run exports the graphs that are compared; that takes minutes.
"""


class Sizes(click.ParamType):  # type: ignore[type-arg, unused-ignore] # generic from click 8.3 on
    """Sizes with commas."""

    name = "HxW,..."

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read "256x320,480x640" as ((256, 320), (480, 640))."""
        return tuple(dict.fromkeys(Size().convert(part, param, ctx) for part in str(value).split(",")))


@click.command(cls=Command, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--preset", type=click.Choice(PRESETS), help="Network to export.  [default: tiny]")
@click.option("--bundle", type=click.Path(path_type=Path), help="Bundle to measure instead of an untrained one.")
@click.option("--sizes", type=Sizes(), help="Image sizes.  [default: 256x320,480x640]")
@click.option(
    "--rows", "patterns", multiple=True, metavar="PATTERN", help="Only these; repeatable.  [default: all that can run]"
)
@click.option("--rounds", type=click.IntRange(1, 1000), help="Turns of each row.  [default: 15; 3 with --quick]")
@click.option("--threads", type=click.IntRange(1), help="Cores, and threads on them.  [default: all cores]")
@click.option("--quick", is_flag=True, help="A first look in two minutes: fewer rows, rounds, K and sizes.")
@click.option("--growth", is_flag=True, help="Cost and memory against K, image size and batch, for SPD alone.")
@click.option(
    "--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), callback=writable(".json"),
    metavar="FILE.json", help="Write everything.",
)  # fmt: skip
@click.option(
    "--plot", "plot_path", type=click.Path(dir_okay=False, path_type=Path), callback=writable(".png"),
    metavar="FILE.png", help="Draw T(K) with the break-even points.",
)  # fmt: skip
@click.option(
    "--cache", type=click.Path(file_okay=False, path_type=Path), default=CACHE, show_default=True,
    help="Keeps what was exported.",
)  # fmt: skip
def main(json_path: Path | None, plot_path: Path | None, growth: bool, **arguments: Any) -> None:
    """Time SPD on the runtimes and in the precisions that work here, its literal form, and dense networks, in turns.

    Those are Depth Anything V2 Small, and YOLO26-depth where you installed ultralytics.
    """
    if arguments["bundle"] is not None and (arguments["preset"] is not None or arguments["sizes"] is not None):
        raise click.UsageError("--bundle has its own network and size: leave out --preset and --sizes")
    if growth and (plot_path is not None or arguments["patterns"]):
        raise click.UsageError("--growth measures SPD alone and draws nothing: leave out --rows and --plot")

    # numpy and the rest are imported only now: --help is to be instant.
    from spd.files import write_atomically

    if plot_path is not None:
        from spd.utils.plots import write_png  # what it needs may be missing: known before anything is measured
        from tools.bench.plot import draw
    from tools.bench.growth import QUICK_SIZES, SIZES, grow
    from tools.bench.run import Options, benchmark

    quick = arguments["quick"]
    sizes = (QUICK_SIZES if quick else SIZES) if growth else ((480, 640),) if quick else ((256, 320), (480, 640))
    options = Options(
        preset=arguments["preset"] or "tiny",
        bundle=arguments["bundle"],
        sizes=arguments["sizes"] or sizes,
        patterns=arguments["patterns"],
        rounds=arguments["rounds"] or (QUICK_ROUNDS if quick else ROUNDS),
        threads=arguments["threads"],
        cache=arguments["cache"],
        quick=quick,
        command="python -m tools.bench " + shlex.join(sys.argv[1:]),
    )
    start = time.monotonic()

    def say(text: str) -> None:
        note(f"{time.monotonic() - start:6.1f} s  {text}")

    report: Any = (grow if growth else benchmark)(options, say)
    if json_path is not None:
        with write_atomically(json_path) as file:
            file.write((json.dumps(report.as_dict(), indent=1, allow_nan=False) + "\n").encode())
    if plot_path is not None:
        with write_atomically(plot_path) as file:
            write_png(draw(report.as_dict()), file)
    write_stdout(report.markdown().encode())


if __name__ == "__main__":
    main()
