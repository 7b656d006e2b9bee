"""The command `spd-serve`. Nothing but click is imported here, so that --help and refusals are instant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import click

from spd.bundle.contract import BACKENDS, RUN_PRECISIONS
from spd.commands.cli import Command, Memory
from spd.serve.settings import MIB, Settings
from spd.version import __version__

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

PAGE = Path(__file__).parent / "page"

EXAMPLES = """\b
Examples:
  spd-serve engines/
  spd-serve engines/ --port 9000 --cache-budget 4GiB --idle 120
  curl -F image=@photo.jpg http://127.0.0.1:8000/scenes
  curl http://127.0.0.1:8000/scenes/ID/depth -H 'Content-Type: application/json' -d '{"points": [[320.5, 240.5]]}'
  curl 'http://127.0.0.1:8000/scenes/ID/grid?width=64'
"""


def _limit(option: str, field: str, text: str) -> Callable[[Decorated], Decorated]:
    """An option for a whole number of `Settings`."""
    default = getattr(Settings(), field)
    return click.option(
        option, field, type=click.IntRange(1), metavar="N", default=default, show_default=True, help=text
    )


@click.command(cls=Command, extra="serve", epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("engines", type=click.Path(path_type=Path))
@click.option(
    "--host",
    default=Settings.host,
    show_default=True,
    help="Address to listen on. Anyone who reaches it may use the server; 0.0.0.0 is open to other machines.",
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=Settings.port, show_default=True, help="0 takes a free one."
)
@click.option(
    "--backend", type=click.Choice(("auto", *BACKENDS)), default="auto", show_default=True, help="What runs the model."
)
@click.option(
    "--precision", type=click.Choice(RUN_PRECISIONS), help="Precision of the graphs.  [default: the backend's]"
)
@click.option(
    "--device", type=click.IntRange(0), metavar="N", help="The GPU, as CUDA numbers them.  [default: the first, if any]"
)
@click.option("--threads", type=click.IntRange(1), metavar="N", help="CPU threads of one call.  [default: all cores]")
@click.option(
    "--cache-budget",
    type=Memory(),
    help="What the caches of all scenes may take on the device, such as 2GiB; the least recently asked make room.  "
    "[default: 1GiB]",
)
@click.option(
    "--on-evicted",
    type=click.Choice(("encode", "410")),
    default=Settings.on_evicted,
    show_default=True,
    help="A scene that had to make room is encoded again when it is asked, or is gone and answers 410.",
)
@click.option(
    "--idle",
    "idle_seconds",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    default=Settings.idle_seconds,
    show_default=True,
    help="Close scenes that nobody asked for so long.",
)
@_limit("--max-scenes", "max_scenes", "Most scenes; another image is refused with 429.")
@click.option(
    "--max-upload",
    type=Memory(),
    default=f"{Settings.max_upload // MIB}MiB",
    show_default=True,
    help="Largest image file.",
)
@_limit("--max-pixels", "max_pixels", "Most pixels of an image.")
@_limit("--max-points", "max_points", "Most points of one question, and most cells of a grid.")
@_limit("--workers", "workers", "Threads that decode images and run the model.")
@click.option(
    "--queue",
    type=click.IntRange(0),
    metavar="N",
    default=Settings.queue,
    show_default=True,
    help="Requests that may wait for a worker; more are refused with 429.",
)
@click.option(
    "--drain",
    "drain_seconds",
    type=click.IntRange(1),
    metavar="SECONDS",
    default=Settings.drain_seconds,
    show_default=True,
    help="How long requests may take to finish after SIGTERM or Ctrl-C.",
)
@click.option(
    "--cors",
    multiple=True,
    metavar="ORIGIN",
    help="A site whose pages may use the server, such as https://example.org, or * for all. Repeatable.",
)
@click.option("--page/--no-page", default=True, show_default=True, help="Show a page to click on at /.")
@click.option("-v", "--verbose", is_flag=True, help="Say on stderr what is asked and answered.")
@click.version_option(__version__, "--version", prog_name="spd-serve")
def main(engines: Path, page: bool, **options: Any) -> None:
    """Serve the metric depth of photos over HTTP, with a page to click on.

    ENGINES is a bundle made by spd-export, the folder that holds it, or a checkpoint. An image is sent and encoded
    once; points of it can then be asked as often as wanted. /openapi.json describes what is answered.

    SIGTERM and Ctrl-C end the server: it finishes what runs and exits with code 0.
    """
    from spd.serve.server import serve  # uvicorn and starlette, which the base installation lacks

    limits = {field.name: options.pop(field.name) for field in fields(Settings) if field.name in options}
    serve(engines, Settings(**limits, page=PAGE if page else None), **options)


if __name__ == "__main__":
    main()
