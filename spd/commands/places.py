"""Where results go: places that cannot be written are refused before the slow part."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import click


def check_file(path: Path, option: str, suffixes: Iterable[str] = (), inputs: Iterable[Path] = ()) -> None:
    """Check that a result can be written to a file.

    Args:
        path: the file; may exist.
        option: what the user calls it, such as --out.
        suffixes: those that it may have; any if there are none.
        inputs: what is read, and must not be overwritten.

    Raises:
        click.BadParameter: it cannot be written.
    """
    suffixes = tuple(suffixes)
    if suffixes and path.suffix.lower() not in suffixes:
        raise click.BadParameter(f"{path} must end in {' or '.join(suffixes)}", param_hint=option)
    if path.is_dir():
        raise click.BadParameter(f"{path} is a folder, expected a file", param_hint=option)
    target = Path(os.path.realpath(path))
    if not (target.exists() and os.access(target, os.W_OK)):  # or else it is overwritten if it cannot be replaced
        _check_parent(target, path, option)
    if str(target) in map(os.path.realpath, inputs):
        raise click.BadParameter(f"{path} would overwrite an input; choose another name", param_hint=option)


def check_folder(path: Path, option: str) -> None:
    """Check that a folder can be written into, or be made.

    Raises:
        click.BadParameter: it cannot.
    """
    if not path.exists():
        _check_parent(path, path, option)
    elif not path.is_dir():
        raise click.BadParameter(f"{path} is a file, expected a folder", param_hint=option)
    elif not os.access(path, os.W_OK):
        raise click.BadParameter(f"{path} is read-only; choose another", param_hint=option)


def _check_parent(path: Path, shown: Path, option: str) -> None:
    """Check that the folder of a file or folder is there and can be written into."""
    if not path.parent.is_dir():
        raise click.BadParameter(f"the folder of {shown} does not exist; make it first", param_hint=option)
    if not os.access(path.parent, os.W_OK):
        raise click.BadParameter(f"the folder of {shown} is read-only; choose another", param_hint=option)


def writable(suffix: str) -> Callable[[click.Context, click.Parameter, Path | None], Path | None]:
    """A callback for an option with a file that ends in `suffix`; see `check_file`."""

    def check(_: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
        if value is not None:
            check_file(value, param.opts[0], (suffix,))
        return value

    return check
