"""The command `spd-bulk`. Nothing but click is imported here, so that --help and refusals are instant."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import click

from spd.bundle.contract import BACKENDS, RUN_PRECISIONS
from spd.commands.cli import Command
from spd.version import __version__

EPILOG = """
\b
Examples:
  spd-bulk photos/ --points grid:256 --out depths/
  spd-bulk 'photos/**/*.jpg' --points pts.csv --out depths/
  spd-bulk list.txt photos.parquet:path --points random:64 --out depths/
  spd-bulk s3://bucket/photos --points grid:256 --out s3://bucket/depths --address auto --num-gpus 0.25

PHOTOS are photos; folders, with the folders in them; names with *, ? and **; .txt files with a photo in each line;
FILE.parquet:COLUMN. Each may be in object storage: s3://, gs://.

The result is a folder of Parquet files with a row for each photo: image, u, v and depth (lists), error, bundle. The
same command again goes on where it was stopped or killed, and takes new photos along. A photo that cannot be used gets
a line on stderr and in the column error, and does not end the job.

With --address the package and the bundle must be at the same place on every machine.
"""


@click.command(cls=Command, extra="bulk", epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("photos", nargs=-1, required=True)
@click.option(
    "--points",
    required=True,
    metavar="FILE|grid:N|random:N[:SEED]",
    help="As for spd-infer: the same points for all photos, or N points made for each.",
)
@click.option("--out", required=True, metavar="DIR", help="Folder of results; may be in object storage.")
@click.option(
    "--engines",
    type=click.Path(path_type=Path),
    default=Path("engines"),
    show_default=True,
    metavar="DIR",
    help="A bundle made by spd-export, or the folder that holds it.",
)
@click.option("--backend", type=click.Choice(("auto", *BACKENDS)), default="auto", show_default=True)
@click.option("--precision", type=click.Choice(RUN_PRECISIONS), help="[default: the backend's]")
@click.option(
    "--threads", type=click.IntRange(1), metavar="N", help="CPU threads of each worker.  [default: all cores]"
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    metavar="N",
    help="Processes.  [default: as many as the GPUs allow, or one for each machine]",
)
@click.option(
    "--num-gpus", type=click.FloatRange(0), default=0.0, show_default=True, help="GPUs of each worker, such as 0.25."
)
@click.option("--address", metavar="ADDRESS", help="A Ray cluster, such as auto.  [default: this machine]")
@click.option(
    "--part", type=click.IntRange(1), default=64, show_default=True, metavar="N", help="Photos in each file of results."
)
@click.version_option(__version__, prog_name="spd-bulk")
def main(**arguments: Any) -> None:
    """Write the metric depth at points of many photos, on all cores, GPUs or machines of a Ray cluster."""
    import ray.data  # noqa: F401 # if it is missing, that is said at once
    from rich.console import Console

    from spd.bulk.job import run_job
    from spd.bulk.request import Request
    from spd.commands.progress import Phases

    with _stderr_without_ray() as stderr:
        run_job(Request(**arguments), Phases(Console(file=stderr)))


@contextmanager
def _stderr_without_ray() -> Iterator[TextIO]:
    """A stream to stderr. What others write there meanwhile is dropped: Ray cannot be told to be silent."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        with os.fdopen(os.dup(kept), "w", encoding="utf-8", errors="replace") as stream:
            yield stream
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


if __name__ == "__main__":
    main()
