"""Where `spd-infer` draws."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import click

from spd.commands.places import check_file, check_folder


def picture_paths(picture: str | None, images: Sequence[Path], inputs: Sequence[Path]) -> list[Path]:
    """The PNG file for each image; empty without `--picture`.

    In a folder (existing, or a new one written with a slash at its end) the files are called like the images; a second
    image of the same name gets `-2`.

    Raises:
        click.BadParameter: one file for several images, not a PNG, its folder is not there, or it is one of the inputs.
    """
    if picture is None:
        return []
    path = Path(picture)
    if not path.is_dir() and not picture.endswith(("/", os.sep)):
        if len(images) != 1:
            message = f"{picture} is one file for {len(images)} images; give a folder, with / at its end"
            raise click.BadParameter(message, param_hint="--picture")
        check_file(path, "--picture", (".png",), inputs)
        return [path]
    check_folder(path, "--picture")
    paths: list[Path] = []
    for image in images:
        count = sum(other.stem == image.stem for other in images[: len(paths)])
        paths.append(path / f"{image.stem}{f'-{count + 1}' if count else ''}.png")
        if path.exists():
            check_file(paths[-1], "--picture", (".png",), inputs)
    return paths
