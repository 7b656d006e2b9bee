"""Where results go: places that cannot work are refused before any depth is computed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import click

from spd.infer.outputs import WRITERS


def check_out(out: Path | None, inputs: Iterable[Path]) -> None:
    """See that `--out` can be written.

    Raises:
        click.BadParameter: its suffix is unknown, its folder is not there, or it is one of the inputs.
    """
    if out is None:
        return
    if out.suffix.lower() not in WRITERS:
        raise click.BadParameter(f"{out} must end in one of {' '.join(WRITERS)}", param_hint="--out")
    _check(out, inputs, "--out")


def picture_paths(picture: str | None, images: Sequence[Path], inputs: Iterable[Path]) -> list[Path]:
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
        if path.suffix.lower() != ".png":
            raise click.BadParameter(f"{picture} must end in .png", param_hint="--picture")
        paths = [path]
    else:
        _check_folder(path.parent, path, "--picture")
        if path.exists() and not path.is_dir():
            raise click.BadParameter(f"{path} is a file, not a folder", param_hint="--picture")
        paths = []
        for image in images:
            count = sum(other.stem == image.stem for other in images[: len(paths)])
            paths.append(path / f"{image.stem}{f'-{count + 1}' if count else ''}.png")
    for target in paths:
        _check(target, inputs, "--picture", new_folder=target is not path)
    return paths


def _check(path: Path, inputs: Iterable[Path], option: str, new_folder: bool = False) -> None:
    if not new_folder or path.parent.exists():
        _check_folder(path.parent, path, option)
    if path.is_dir():
        raise click.BadParameter(f"{path} is a folder, expected a file", param_hint=option)
    if os.path.realpath(path) in map(os.path.realpath, inputs):
        raise click.BadParameter(f"{path} would overwrite an input; choose another name", param_hint=option)


def _check_folder(folder: Path, path: Path, option: str) -> None:
    if not folder.is_dir():
        raise click.BadParameter(f"the folder of {path} does not exist; make it first", param_hint=option)
    if not os.access(folder, os.W_OK):
        raise click.BadParameter(f"the folder of {path} is read-only; choose another", param_hint=option)
