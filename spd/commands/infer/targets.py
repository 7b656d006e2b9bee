"""Where `spd-infer` draws."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import click

from spd.commands.infer.images import STDIN
from spd.commands.places import check_file, check_folder


def picture_paths(picture: str | None, images: Sequence[Path], inputs: Sequence[Path]) -> list[Path]:
    """The PNG file for each image; empty without `--picture`.

    In a folder (existing, or a new one written with a slash at its end) the files are called like the images; of
    several images of the same name all but the first get a number, see `picture_names`.

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
    paths = [path / f"{name}.png" for name in picture_names(images)]
    if path.exists():
        for target in paths:
            check_file(target, "--picture", (".png",), inputs)
    return paths


def picture_names(images: Sequence[Path]) -> list[str]:
    """A name for each image's picture, without suffix; no two differ only by case or Unicode form.

    The first image of a name keeps it. A further one gets `-2`, `-3`, ..., the first number that makes a name which no
    image has: a.jpg, a.png and a-2.jpg become a, a-3 and a-2.
    """
    stems = ["stdin" if str(image) == STDIN else image.stem for image in images]
    reserved = set(map(_folded, stems))
    taken: set[str] = set()
    names = []
    for stem in stems:
        name, number = stem, 1
        while _folded(name) in taken or (number > 1 and _folded(name) in reserved):
            number += 1
            name = f"{stem}-{number}"
        taken.add(_folded(name))
        names.append(name)
    return names


def _folded(name: str) -> str:
    """The same text for names that some file system takes for one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
