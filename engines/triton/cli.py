"""`spd-triton`: from a bundle to a model repository for NVIDIA's Triton Inference Server."""

from __future__ import annotations

import re
from pathlib import Path

import click

from spd.bundle.contract import BACKENDS, RUN_PRECISIONS
from spd.commands.cli import Command, note
from spd.commands.places import check_folder
from spd.version import __version__

EPILOG = """
\b
Examples:
  spd-triton engines/tiny-480x640 --out model_repository/
  spd-triton engines/ --out model_repository/ --backend onnxruntime-cpu --cache-budget 2GiB
  tritonserver --model-repository=model_repository/

Four models appear in the repository. NAME keeps a scene for each sequence: its first request brings an image, later
ones bring points. NAME_once takes an image and points in one request. NAME_encoder and NAME_decoder are the bundle's
graphs, or its plans of TensorRT, for who chains them.

The Python of Triton's python backend needs this package: pip install spd-depth. A server that has no backend for ONNX
Runtime takes the first two: --model-control-mode=explicit --load-model=NAME --load-model=NAME_once.
"""


def _name(_: click.Context, param: click.Parameter, value: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", value) is None:
        raise click.BadParameter(f"{value!r} is not a name: expected letters, digits, _ . and -", param=param)
    return value


@click.command(cls=Command, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The model repository.")
@click.option("--name", default="spd", show_default=True, callback=_name, help="Name of the model.")
@click.option(
    "--backend",
    type=click.Choice(["auto", *(name for name in BACKENDS if name != "torch")]),
    default="auto",
    show_default=True,
    help="What runs the model that keeps scenes.",
)
@click.option(
    "--precision",
    type=click.Choice(RUN_PRECISIONS),
    help="Of all models.  [default: what spd-infer takes; for the graphs by themselves TensorRT's plans, or fp32]",
)
@click.option("--cache-budget", metavar="SIZE", help="Memory for the caches of all scenes, such as 2GiB.")
@click.option(
    "--max-scenes", type=click.IntRange(1), default=256, show_default=True, help="Sequences that are open at once."
)
@click.option(
    "--idle",
    type=click.IntRange(1, 86_400),
    default=600,
    show_default=True,
    help="Seconds after which a sequence without requests is closed.",
)
@click.option("--force", is_flag=True, help="Replace models of these names.")
@click.version_option(__version__, prog_name="spd-triton")
def main(
    bundle: Path,
    out: Path,
    name: str,
    backend: str,
    precision: str | None,
    cache_budget: str | None,
    max_scenes: int,
    idle: int,
    force: bool,
) -> None:
    """Make a model repository for Triton from BUNDLE, a folder made by spd-export."""
    check_folder(out, "--out")
    from engines.triton.configs import SceneOptions
    from engines.triton.repository import write_repository
    from spd.runtime.residency import parse_bytes  # numpy

    if cache_budget is not None:
        parse_bytes(cache_budget)
    options = SceneOptions(backend, precision, cache_budget, max_scenes, idle)
    for folder in write_repository(bundle, out, name, options, force=force, progress=note):
        click.echo(folder)


if __name__ == "__main__":
    main()
