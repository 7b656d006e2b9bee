"""The command `spd-eval`. Only click is imported here: --help and refusals are instant."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from spd.bundle.contract import BACKENDS, RUN_PRECISIONS
from spd.commands.cli import Command, Size, checkpoint_weights
from spd.version import __version__

BASELINES = ("depth-anything",)
"""Predictors that are no SPD, see `spd.baselines`."""

DENSE_POINTS = 4096
"""Pixels per image of the row "dense" by default, the same for every model. All 81,920 pixels of each of 100 rooms take
the literal form of the smallest network over nine minutes on two cores, this many under two."""

EPILOG = """
\b
Examples:
  spd-eval model.pt --data rooms
  spd-eval engines/ --data /data/nyu_depth_v2 --dense-points all --precision fp16 --out result.json
  spd-eval model.pt --data /data/nyu_depth_v2 --median-scale --images 50 --pictures pictures/
  spd-eval depth-anything/Depth-Anything-V2-Metric-Indoor-Small-hf --baseline depth-anything --data rooms

\b
AbsRel  mean of |d* - d| / d*, with d* the true depth and d the predicted one
RMSE    root of the mean of (d* - d)^2, in metres
δ       share of points with max(d / d*, d* / d) below 1.25, 1.25², 1.25³

Each is taken over the points of an image, then averaged over images. True depths count between 0.001 and 10 m;
predictions are clamped to that, and NaN is the lowest. On disk, images of 480x640 have the Eigen crop: rows 45 to 470,
columns 41 to 600.

The row "dense" is of 4,096 random valid pixels of each image, the same ones for every model. The paper's row is of all
valid pixels: --dense-points all. The table and the file say which of the two it is.

--median-scale takes one number per image from the same 1,024 points whatever K is, those of K = 1024.
"""


def _ks(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, ...]:
    """Read `1,64,256`: different whole numbers from 1 to a million, in any order."""
    texts = [text.strip() for text in value.split(",")]
    if not all(re.fullmatch(r"[1-9]\d{0,5}|1000000", text) for text in texts):
        raise click.BadParameter(f"{value!r} is not a list of whole numbers from 1 on, such as 1,64,256", ctx, param)
    if len(set(texts)) < len(texts):
        raise click.BadParameter(f"{value!r} has a number twice; name each once", ctx, param)
    return tuple(sorted(map(int, texts)))


def _dense_points(ctx: click.Context, param: click.Parameter, value: str) -> int | None:
    """Read a whole number from 1 on; None for `all`.

    Raises:
        click.BadParameter: it is neither.
        click.UsageError: it was given with --no-dense.
    """
    assert param.name is not None
    if ctx.get_parameter_source(param.name) is not ParameterSource.DEFAULT and not ctx.params["dense"]:
        raise click.UsageError("--dense-points says how many pixels --dense takes; leave out one of the two")
    if value == "all":
        return None
    if re.fullmatch(r"[1-9]\d{0,8}", value) is None:
        raise click.BadParameter(
            f"{value!r} is neither a number of pixels from 1 on, such as 4096, nor all", ctx, param
        )
    return int(value)


@click.command(cls=Command, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model")
@click.option("--data", required=True, metavar="rooms|PATH", help="Rendered test rooms, or a copy of NYU Depth V2.")
@click.option("--images", type=click.IntRange(1), metavar="N", help="The first N only.  [default: all; 100 rooms]")
@click.option("--k", "ks", callback=_ks, default="1,64,256,1024", show_default=True, help="Numbers of points.")
@click.option(
    "--dense/--no-dense", default=True, is_eager=True, help="Also ask pixels of the whole image.  [default: dense]"
)
@click.option(
    "--dense-points", callback=_dense_points, default=str(DENSE_POINTS), show_default=True, metavar="N|all",
    help="How many pixels per image that is: N random valid ones, or all; all are slow on a CPU.",
)  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Chooses the points.")
@click.option("--median-scale", is_flag=True, help="Scale each image's predictions to the median of the truth.")
@click.option(
    "--backend", type=click.Choice(("auto", *BACKENDS)), default="auto", show_default=True, help="What runs the model."
)
@click.option("--precision", type=click.Choice(RUN_PRECISIONS), help="Precision of a bundle.  [default: the backend's]")
@click.option("--threads", type=click.IntRange(1), metavar="N", help="CPU threads.  [default: all cores]")
@click.option("--size", type=Size(), help="Size of a checkpoint's image.  [default: its own]")
@checkpoint_weights
@click.option("--baseline", type=click.Choice(BASELINES), help="MODEL is of this kind: a folder or a name on its hub.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Also write .json or .csv.")
@click.option("--pictures", type=click.Path(path_type=Path), metavar="DIR", help="Draw each image's result as a PNG.")
@click.version_option(__version__, "--version", prog_name="spd-eval")
def main(**arguments: Any) -> None:
    """Measure depth against ground truth, at K random points per image and over its whole area.

    MODEL is a bundle made by spd-export, a folder that holds one, or a checkpoint. The points depend only on the seed,
    the number of the image and K: two models are asked the same.
    """
    if arguments["baseline"] is not None:
        no_models = {"backend": "auto", "precision": None, "threads": None, "size": None, "weights": "auto"}
        for option, default in no_models.items():
            if arguments[option] != default:
                raise click.UsageError(f"--{option} is for models of SPD, not for --baseline; leave it out")

    from spd.evaluation.run import Request, run  # numpy and rich

    run(Request(**arguments))


if __name__ == "__main__":
    main()
