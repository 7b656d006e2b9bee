"""The command `spd-eval`. Nothing but click is imported here, so that --help and refusals are instant."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from spd.bundle.contract import BACKENDS, PRECISIONS
from spd.commands.cli import Command, Size, checkpoint_weights
from spd.version import __version__

BASELINES = ("depth-anything",)
"""Predictors that are no SPD, see `spd.baselines`."""

EPILOG = """
\b
Examples:
  spd-eval model.pt --data rooms
  spd-eval engines/ --data /data/nyu_depth_v2 --precision fp16 --out result.json
  spd-eval model.pt --data /data/nyu_depth_v2 --median-scale --images 50 --pictures pictures/
  spd-eval depth-anything/Depth-Anything-V2-Metric-Indoor-Small-hf --baseline depth-anything --data rooms

\b
AbsRel  mean of |d* - d| / d*, with d* the true depth and d the predicted one
RMSE    root of the mean of (d* - d)^2, in metres
δ       share of points with max(d / d*, d* / d) below 1.25, 1.25², 1.25³

Each is taken over the points of an image, then averaged over images. True depths count between 0.001 and 10 m;
predictions are clamped to that, and NaN is the lowest. On disk, images of 480x640 have the Eigen crop: rows 45 to 470,
columns 41 to 600.

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


@click.command(cls=Command, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model")
@click.option("--data", required=True, metavar="rooms|PATH", help="Rendered test rooms, or a copy of NYU Depth V2.")
@click.option("--images", type=click.IntRange(1), metavar="N", help="The first N only.  [default: all; 100 rooms]")
@click.option("--k", "ks", callback=_ks, default="1,64,256,1024", show_default=True, help="Numbers of points.")
@click.option("--dense/--no-dense", default=True, help="Also ask all valid pixels; slow on a CPU.  [default: dense]")
@click.option("--dense-points", type=click.IntRange(1), metavar="N", help="Of those, at most N random ones per image.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Chooses the points.")
@click.option("--median-scale", is_flag=True, help="Scale each image's predictions to the median of the truth.")
@click.option(
    "--backend", type=click.Choice(("auto", *BACKENDS)), default="auto", show_default=True, help="What runs the model."
)
@click.option("--precision", type=click.Choice(PRECISIONS), help="Precision of a bundle.  [default: the backend's]")
@click.option("--size", type=Size(), help="Size of a checkpoint's image.  [default: its own]")
@checkpoint_weights
@click.option("--baseline", type=click.Choice(BASELINES), help="MODEL is of this kind: a folder or a name on its hub.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Also write .json or .csv.")
@click.option("--pictures", type=click.Path(path_type=Path), metavar="DIR", help="Draw each image's result as a PNG.")
@click.version_option(__version__, "--version", prog_name="spd-eval")
def main(**arguments: Any) -> None:
    """Measure depth against ground truth, at K random points per image and at all pixels.

    MODEL is a bundle made by spd-export, a folder that holds one, or a checkpoint. The points depend on the seed, the
    number of the image and K only, so that two models are asked the same.
    """
    if arguments["dense_points"] is not None and not arguments["dense"]:
        raise click.UsageError("--dense-points says how many points --dense takes; leave out one of the two")
    if arguments["baseline"] is not None:
        for option, default in (("backend", "auto"), ("precision", None), ("size", None), ("weights", "auto")):
            if arguments[option] != default:
                raise click.UsageError(f"--{option} is for models of SPD, not for --baseline; leave it out")

    from spd.evaluation.run import Request, run  # numpy and rich

    run(Request(**arguments))


if __name__ == "__main__":
    main()
