"""Render a procedural room as a photo: `python -m tools.render_room room.png --seed 21 --size 480x640`."""

from __future__ import annotations

from pathlib import Path

import click
from PIL import Image

from spd.commands.cli import Command, Size
from spd.data.rooms import render_room
from spd.files import write_atomically


@click.command(cls=Command)
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--seed", type=click.IntRange(0), default=21, show_default=True, help="Which room.")
@click.option("--size", type=Size(), default="480x640", show_default=True, help="Size of the picture, pixels.")
def main(path: Path, seed: int, size: tuple[int, int]) -> None:
    """Write a picture of a room that does not exist to PATH (.png or .jpg)."""
    height, width = size
    kinds = Image.registered_extensions()
    if path.suffix.lower() not in kinds:
        raise click.UsageError(f"{path} ends in {path.suffix!r}, expected a picture such as .png or .jpg")
    with write_atomically(path) as file:
        Image.fromarray(render_room(seed, height, width).image).save(file, format=kinds[path.suffix.lower()])


if __name__ == "__main__":
    main()
