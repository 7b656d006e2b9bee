"""`spd-calibrate`: which modules of a network need more bits than the others, found on photos."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import click

from export.cli import CKPT_HELP, SIZE_HELP, check_source
from spd.commands.cli import Command, Size, checkpoint_weights, note
from spd.commands.places import check_file
from spd.config import DEFAULT_SIZE, PRESETS
from spd.version import __version__

EPILOG = """
\b
Examples:
  spd-calibrate --ckpt model.pt --images photos/ --out policy.json
  spd-export --ckpt model.pt --policy policy.json --out engines/
  spd-calibrate --ckpt model.pt --precision int8 --images photos/ --out policy8.json
  spd-export --ckpt model.pt --precision int8 --images photos/ --policy policy8.json --out engines/
  spd-calibrate --seed-checkpoint atto --out policy.json --size 256x320

A network whose graphs pass spd-export needs no policy. The images that spd-export judges by are always run too. Ranges
of 8-bit products are measured as spd-export does with the same --images.
"""


@click.command(cls=Command, extra="export", epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--ckpt", type=click.Path(path_type=Path), help=CKPT_HELP)
@click.option("--seed-checkpoint", type=click.Choice(PRESETS), help="Calibrate untrained weights instead.")
@click.option("--preset", type=click.Choice(PRESETS), help="Network of a checkpoint that does not say.")
@checkpoint_weights
@click.option(
    "--images",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder of photos.  [default: rendered rooms]",
)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The policy, a JSON file.")
@click.option("--size", type=Size(), help=SIZE_HELP)
@click.option(
    "--precision",
    type=click.Choice(("fp16", "bf16", "int8", "int8-fp16", "fp8")),
    default="fp16",
    show_default=True,
    help="What it is for.",
)
@click.option("--points", type=click.IntRange(1, 4096), default=256, show_default=True, help="Points per image.")
@click.option(
    "--max-images", type=click.IntRange(1), default=16, show_default=True, help="Most images; spread over the folder."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the points.")
@click.option(
    "--max-error",
    type=click.FloatRange(0, 1, min_open=True),
    help="Largest relative depth error of one module.  [default: half of what spd-export allows the network]",
)
@click.option(
    "--headroom",
    type=click.FloatRange(1),
    default=4.0,
    show_default=True,
    help="Tensors within this factor of overflowing stay float32.",
)
@click.version_option(__version__, prog_name="spd-calibrate")
def main(**arguments: Any) -> None:
    """Find the modules that an export must keep in more bits than its other ones.

    Runs the network over photos and random points, records how large every tensor gets, computes each module alone in
    the low precision, and writes a policy for spd-export that names as few and as small modules as do. In float16 and
    bfloat16 these stay float32; in 8 bits their products are not quantised. Fails if no policy brings the network
    within what spd-export allows.
    """
    checkpoint: Path | None = arguments["ckpt"]
    check_source(checkpoint, arguments["seed_checkpoint"], arguments["preset"], arguments["weights"])
    check_file(arguments["out"], "--out", inputs=[checkpoint] if checkpoint else [])

    _calibrate(arguments)


def _calibrate(arguments: dict[str, Any]) -> None:
    """Do the work, after the checks of the arguments."""
    # rich and torch are imported only now: they would make --help take seconds.
    from rich.console import Console

    from spd.commands.progress import Phases

    console = Console(stderr=True)
    phases = Phases(console)
    with phases("loading torch"):
        importlib.import_module("calib.report")
    from calib.choose import Settings, calibrate
    from calib.report import document, summarise
    from calib.samples import gate_samples, photo_samples
    from export.calibration import calibration_set
    from export.graphs import GraphOptions
    from export.pipeline import load_source
    from spd.bundle.gate import TOLERANCES
    from spd.errors import ParityError
    from spd.files import write_atomically

    seeded = arguments["seed_checkpoint"]
    points, precision = arguments["points"], arguments["precision"]
    with phases("reading the checkpoint" if seeded is None else f"making an untrained {seeded}"):
        source = load_source(arguments["ckpt"], seeded, arguments["preset"], arguments["weights"])
    if source.note:
        note(f"Note: {source.note}.")
    size = arguments["size"] or source.size or DEFAULT_SIZE
    folder, seed = arguments["images"], arguments["seed"]
    with phases("rendering rooms" if folder is None else "reading the images") as tick:
        height, width = size
        most = arguments["max_images"]
        photos = calibration_set(folder, height, width, points, tick, most=most, points=points, seed=seed)
        samples = [*photo_samples(photos), *gate_samples(size, points)]
    if photos.skipped:
        note(f"Note: {len(photos.skipped)} images were left out, such as: {photos.skipped[0]}.")
    max_error = arguments["max_error"] or TOLERANCES[precision].max / 2
    settings = Settings(precision, max_error, arguments["headroom"])
    options = GraphOptions(*size)
    calibration = calibrate(source.model, options, photos, samples, settings, phases)
    summarise(calibration, settings, console)
    if not calibration.result.within(settings.tolerance):
        raise ParityError(
            f"{precision} does not pass with {len(calibration.kept)} modules in more bits: relative depth error "
            f"{calibration.result.max:.2g} (at most {settings.tolerance.max:g}), mean {calibration.result.mean:.2g} "
            f"(at most {settings.tolerance.mean:g}); no policy was written; export without --precision {precision}"
        )
    text = json.dumps(
        document(calibration, settings, source, options, photos, samples, seed), indent=2, allow_nan=False
    )
    with write_atomically(arguments["out"]) as file:
        file.write(f"{text}\n".encode())
    console.print(f"{arguments['out']}, {phases.seconds:.0f} s", soft_wrap=True)
    console.print(f"Use it: spd-export --precision {precision} --policy {arguments['out']} ...", soft_wrap=True)


if __name__ == "__main__":
    main()
