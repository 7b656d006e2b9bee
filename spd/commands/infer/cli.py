"""The command `spd-infer`. Nothing but click is imported here, so that --help and refusals are instant."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from spd.bundle.contract import BACKENDS, RUN_PRECISIONS
from spd.commands.cli import Command
from spd.version import __version__

EXAMPLES = """\b
Examples:
  spd-infer photo.jpg --points pts.csv
  spd-infer photo.jpg --points grid:500 --out depth.json --picture depth.png
  spd-infer photos/ --points pts.csv --out depths.npz
  spd-infer --points rows_with_image_column.csv > depths.csv
  spd-infer photo.jpg --points pts.csv --intrinsics 518.9,519.5,325.6,253.7
  echo 320.5,240.5 | spd-infer photo.jpg --points -
  cat photo.jpg | spd-infer - --points grid:500
"""


def _intrinsics(
    ctx: click.Context, param: click.Parameter, value: str | None
) -> tuple[float, float, float, float] | None:
    """Read `fx,fy,cx,cy`: four finite numbers in pixels, the focal lengths above 0."""
    if value is None:
        return None
    try:
        fx, fy, cx, cy = (float(number) for number in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not four numbers fx,fy,cx,cy", ctx, param) from None
    if not all(map(math.isfinite, (fx, fy, cx, cy))) or fx <= 0 or fy <= 0:
        raise click.BadParameter(f"{value!r} must be finite, with focal lengths above 0", ctx, param)
    return fx, fy, cx, cy


@click.command(cls=Command, epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("images", metavar="[IMAGE]...", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--points",
    required=True,
    metavar="FILE|-|grid:N|random:N[:SEED]",
    help="CSV with the columns u,v (or x,y) in pixels, or with two columns and no header, as spreadsheets and numpy "
    "write it; - is stdin. Or N points made for each image.",
)
@click.option(
    "--engines",
    type=click.Path(path_type=Path),
    default=Path("engines"),
    show_default=True,
    metavar="DIR",
    help="A bundle made by spd-export, or the folder that holds it.",
)
@click.option(
    "--backend", type=click.Choice(("auto", *BACKENDS)), default="auto", show_default=True, help="What runs the model."
)
@click.option(
    "--precision", type=click.Choice(RUN_PRECISIONS), help="Precision of the graphs.  [default: the backend's]"
)
@click.option("--threads", type=click.IntRange(1), metavar="N", help="CPU threads.  [default: all cores]")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE", help="Write .csv, .json or .npz instead of CSV to stdout."
)
@click.option(
    "--picture",
    metavar="FILE.png|DIR/",
    help="Draw the points on the image, coloured by depth; a folder gets one PNG per image.",
)
@click.option(
    "--intrinsics",
    callback=_intrinsics,
    metavar="FX,FY,CX,CY",
    help="Add x,y,z in metres (right, down, ahead). Pixels as for points: add 0.5 to cx and cy of a calibration that "
    "puts pixel centres at whole numbers.",
)
@click.option("--allow-outside", is_flag=True, help="Empty depths for points outside the image, not an error.")
@click.option(
    "--keep-going",
    is_flag=True,
    help="Empty depths for images and points that cannot be used, and a column `error` that says why. If there are "
    "any, the exit code is 1 in the end.",
)
@click.option("-v", "--verbose", is_flag=True, help="Say on stderr which backend runs, why not the others, and times.")
@click.version_option(__version__, "--version", prog_name="spd-infer")
def main(**arguments: Any) -> None:
    """Print the metric depth at chosen pixels of photos.

    Reads IMAGE (photos, folders of photos, or - for stdin) and the points, and prints the rows of the points as they
    are, with a column `depth` added: metres, six significant digits.

    (0, 0) is the upper left corner of the photo as a viewer shows it, u goes right, v goes down, and the centre of the
    first pixel is (0.5, 0.5).

    All points are asked of every IMAGE; for several, the output begins with a column `image`. If the CSV has a column
    `image`, each row is asked of that image only: a path from the current folder or from the CSV's, or, where IMAGEs
    are given, the path or file name of one of them.
    """
    from spd.commands.infer.request import Request  # numpy and Pillow
    from spd.commands.infer.run import infer

    infer(Request(**arguments))


if __name__ == "__main__":
    main()
