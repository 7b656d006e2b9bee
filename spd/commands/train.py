"""The command `spd-train`. Heavy packages are imported late: --help and refusals are instant."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from spd.commands.cli import INTERRUPTED, Command, Size, note
from spd.config import PRESETS
from spd.data.sources import ROOMS
from spd.errors import InputError
from spd.training.settings import NETWORKS, OPTIMIZERS, Settings
from spd.version import __version__

if TYPE_CHECKING:
    from spd.training.state import State

EPILOG = """
\b
Examples:
  spd-train --data nyu_depth_v2/ --out runs/nyu
  spd-train --data rooms --preset atto --size 256x320 --no-pretrained --lr 1e-3 --encoder-lr-scale 1 --out runs/atto
  spd-train --resume --out runs/nyu
  spd-export --ckpt runs/nyu/model.pt --out engines/

The first Ctrl-C or SIGTERM ends the run after the current step, ready for --resume. The second ends it at once. A run
that was killed resumes from its last checkpoint and computes the same numbers again.

All GPUs of a machine are used by default. `torchrun --nproc-per-node 4 -m spd.commands.train ...` and
`fabric run --devices 4 $(which spd-train) ...` set the number of processes themselves.
"""

FOR_A_NEW_RUN = {
    "pretrained": "--pretrained and --no-pretrained are",
    "backbone": "--backbone-weights is",
    "init": "--init is",
}
DEFAULT = Settings()
F = TypeVar("F", bound=Callable[..., Any])


def _parse_devices(ctx: click.Context, param: click.Parameter, value: str) -> int | None:
    """Read "auto" as None."""
    if value == "auto":
        return None
    if not value.isdecimal() or int(value) < 1:
        raise click.BadParameter(f"{value!r} is neither a number from 1 on nor auto", ctx, param)
    return int(value)


def _setting(name: str, help_text: str, **options: Any) -> Callable[[F], F]:
    """The option for a field of `Settings`, with its name, type and default."""
    default = getattr(DEFAULT, name)
    options.setdefault("type", int if default is None else type(default))
    return click.option(f"--{name.replace('_', '-')}", name, default=default, help=help_text, **options)


@click.command(
    cls=Command,
    extra="train",
    epilog=EPILOG,
    context_settings={"show_default": True, "help_option_names": ["-h", "--help"]},
)
@click.option(
    "--out",
    "folder",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Folder of the run: last.pt, model.pt, metrics.csv, tensorboard/.",
)
@click.option(
    "--data", default=ROOMS, metavar="rooms|PATH", help="Rendered rooms, or NYU Depth V2 in any of its usual layouts."
)
@click.option("--resume", is_flag=True, help="Continue the run in --out with its own settings.")
@_setting("network", "What to train; bilinear-mlp is the paper's baseline.", type=click.Choice(NETWORKS))
@_setting("preset", "Network, by size from the smallest; tiny is the paper's.", type=click.Choice(PRESETS))
@click.option(
    "--size",
    default=f"{DEFAULT.height}x{DEFAULT.width}",
    type=Size(),
    metavar="HxW",
    help="Height and width of the training image, pixels.",
)
@_setting("batch", "Images per process and step.")
@_setting("points", "Queries per image, K_train.")
@_setting("edge_share", "Share of the queries that lie on depth edges; the paper's option is 0.3.")
@_setting("epochs", "Passes through the data; 24,231 rooms count as one.")
@_setting("max_steps", "Steps of the whole run, instead of --epochs.", metavar="N")
@_setting("lambda_var", "Scale term of the SILog loss, 0 to 1: 1 ignores the scale of an image, 0 counts it in full.")
@_setting(
    "optimizer",
    "Optimizer; muon trains the matrices of dense layers and adamw everything else.",
    type=click.Choice(OPTIMIZERS),
)
@_setting("lr", "Peak learning rate of everything but the backbone.")
@_setting("encoder_lr_scale", "Learning rate of the backbone as a multiple of --lr; 1 suits --no-pretrained.")
@_setting("final_lr_scale", "Last learning rate as a multiple of the peak.")
@_setting("warmup", "Steps over which the learning rate rises to its peak.")
@_setting("weight_decay", "Weight decay of the optimizer.")
@_setting("dropout", "Dropout in self- and cross-attention; 0 suits unlimited data such as rooms.")
@_setting("clip", "Largest norm of the gradient; a larger one is scaled down.")
@_setting(
    "ema", "Decay per step of a moving average of the weights, which is validated and kept instead of them; 0: none."
)
@_setting("seed", "Seed of the weights, the order of the data, augmentation, queries and dropout.")
@click.option(
    "--augment/--no-augment", default=True, help="Flip, resize, crop and jitter colours; rooms vary in shape only."
)
@_setting("holes", "Render rooms with the holes and the noise of a Kinect.", is_flag=True)
@_setting("overfit", "Train and validate on the first N pairs only, to check that the loss can fall.", metavar="N")
@_setting("val_images", "Number of validation images, from the test split.")
@_setting("val_every", "Steps between validations.")
@_setting("log_every", "Steps per row of metrics.csv.")
@_setting("save_every", "Steps between checkpoints to resume from.")
@click.option(
    "--pretrained/--no-pretrained", default=True, help="Start the backbone from ImageNet weights, which timm downloads."
)
@click.option(
    "--backbone-weights",
    "backbone",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Read timm's ImageNet weights from this file instead.",
)
@click.option(
    "--init",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Take all first weights from this checkpoint.",
)
@click.option(
    "--accelerator", default="auto", type=click.Choice(["auto", "cpu", "cuda", "mps"]), help="Hardware to train on."
)
@click.option(
    "--devices",
    default="auto",
    callback=_parse_devices,
    metavar="N|auto",
    help="GPUs per machine, or processes on a CPU.",
)
@click.option(
    "--nodes",
    default=1,
    type=click.IntRange(1),
    help="Number of machines. Run the command on each, with NODE_RANK, MASTER_ADDR and MASTER_PORT set.",
)
@click.option(
    "--precision",
    default="auto",
    type=click.Choice(["auto", "fp32", "bf16"]),
    help="auto: mixed bf16 where the device supports it, else fp32.",
)
@click.option(
    "--workers",
    type=click.IntRange(0),
    help="Processes that prepare batches, for each training process.  [default: one per core but one, at most 8]",
)
@click.option(
    "--threads", type=click.IntRange(1), help="CPU threads of each training process.  [default: all cores, shared]"
)
@click.version_option(__version__, "--version", prog_name="spd-train")
@click.pass_context
def main(ctx: click.Context, /, folder: Path, resume: bool, size: tuple[int, int], **options: Any) -> None:
    """Train on rendered rooms or on NYU Depth V2; the defaults are the paper's."""
    machine = {name: options.pop(name) for name in ("accelerator", "devices", "nodes", "precision", "threads")}
    workers: int | None = options.pop("workers")
    start = {name: options.pop(name) for name in ("pretrained", "backbone", "init")}
    for name, options_are in FOR_A_NEW_RUN.items():
        if resume and ctx.get_parameter_source(name) == ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{options_are} for a new run; leave it out with --resume")
    if start["backbone"] and (start["init"] or not start["pretrained"]):
        raise click.UsageError("--backbone-weights does not go with --init or --no-pretrained; leave out one")
    if options["data"] != ROOMS:
        options["data"] = os.path.abspath(os.path.expanduser(options["data"]))
    try:
        settings = Settings(height=size[0], width=size[1], **options)
    except InputError as error:
        raise click.UsageError(str(error)) from error

    from spd.training.loop import train  # torch takes seconds to import
    from spd.training.machine import Machine, default_workers, fabric_for
    from spd.training.network import Start
    from spd.training.state import LAST, read_last

    saved = read_last(folder) if resume else None
    if saved is not None:
        settings = _settings_of_resumed_run(ctx, settings, Settings.from_dict(saved["settings"]))
    elif (folder / LAST).exists():
        raise InputError(f"{folder} already holds a run; continue it with --resume, or give another --out")
    folder.mkdir(parents=True, exist_ok=True)

    fabric = fabric_for(Machine(**machine), (saved or {}).get("begun", {}))
    workers = default_workers(fabric) if workers is None else workers
    state = train(settings, folder, fabric, workers, Start(**start) if saved is None else saved)
    if fabric.is_global_zero:
        _report_result(state, folder)
    # The process that started others kills all where one of those fails, maybe while it still writes.
    if state.stopped and fabric.local_rank == 0:
        ctx.exit(INTERRUPTED)


def _settings_of_resumed_run(ctx: click.Context, given: Settings, saved: Settings) -> Settings:
    """The saved settings; the path of data on disk may be a new one.

    Raises:
        InputError: an option contradicts them.
    """
    names = {"size": ("height", "width")}
    for parameter in ctx.params:
        if ctx.get_parameter_source(parameter) != ParameterSource.COMMANDLINE:
            continue
        for name in names.get(parameter, (parameter,)):
            value, kept = getattr(given, name, None), getattr(saved, name, None)
            if name == "data" and ROOMS not in (value, kept):
                saved = replace(saved, data=given.data)
            elif value != kept:
                raise InputError(
                    f"the run was started with {name} {kept} and --resume keeps it; leave out {name} {value}"
                )
    return saved


def _report_result(state: State, folder: Path) -> None:
    from spd.training.state import BEST

    progress = state.progress
    skipped = f"; {progress.skipped:,} times a broken pair was skipped" if progress.skipped else ""
    if progress.best_step:
        note(f"{folder / BEST}: AbsRel {progress.best_abs_rel:.4f} at step {progress.best_step:,}{skipped}")
    if state.stopped:
        note(f"stopped after step {progress.step:,}; continue with: spd-train --resume --out {folder}")


if __name__ == "__main__":
    main()
