"""What all commands of the project share: sizes, and how they fail.

| what happened | stderr | exit code |
|---|---|---|
| an SPDError, or a file that cannot be read or written | `Error: ...`, one line | 1 |
| a package is missing that an extra brings, or no thread or memory is left | `Error: ...`, one line | 1 |
| wrong arguments (`click.UsageError`) | usage and `Error: ...` | 2 |
| Ctrl-C | `Interrupted.` | 130 |
| the reader of stdout or stderr went away (`| head`) | nothing | 141 |
| stderr cannot be written | nothing | 1 |

What is not in the table is a mistake of our own, and ends with a traceback.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

import click
from click.core import ParameterSource

from spd.config import PRESETS, check_size
from spd.errors import InputError, SPDError, one_line
from spd.extras import how_to_install
from spd.files import CHECKPOINT_WEIGHTS

INTERRUPTED = 130
"""128 + SIGINT, what a shell reports for a command ended by Ctrl-C."""
BROKEN_PIPE = 141
"""128 + SIGPIPE, what a shell reports for a command whose reader went away."""


class Command(click.Command):
    """A click command that ends as the table above says; use it with `@click.command(cls=Command)`."""

    def __init__(self, *args: Any, extra: str | None = None, **options: Any) -> None:
        """Take what click.Command takes.

        Args:
            args: as in click.Command.
            extra: the extra of this project that brings all that the command needs.
            options: as in click.Command.
        """
        super().__init__(*args, **options)
        self.extra = extra

    def main(self, *args: Any, **options: Any) -> Any:
        """Run the command as a program."""
        _replace_closed_streams()
        try:
            return super().main(*args, **options)
        except OSError as error:  # stderr cannot be written: nothing can be said
            _drop(sys.stdout)
            _drop(sys.stderr)
            sys.exit(BROKEN_PIPE if isinstance(error, BrokenPipeError) else 1)

    def make_context(self, *args: Any, **options: Any) -> click.Context:
        """Read the arguments; --help and --version print and exit here."""
        with self._folded_errors(), _named_stdout():
            return super().make_context(*args, **options)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with self._folded_errors():
            result = super().invoke(ctx)
            with _named_stdout():
                sys.stdout.flush()  # what fails when Python exits ends with 120
            return result

    @contextmanager
    def _folded_errors(self) -> Iterator[None]:
        """Turn errors into those that click shows in one line."""
        try:
            yield
        except SPDError as error:
            raise click.ClickException(_one_line(str(error))) from error
        except (KeyboardInterrupt, click.Abort) as error:
            raise _interrupted() from error
        except ImportError as error:
            # Ctrl-C while a C extension is imported comes out as an ImportError.
            if isinstance(error.__cause__, KeyboardInterrupt):
                raise _interrupted() from error
            install = how_to_install(error.name or "", self.extra) if isinstance(error, ModuleNotFoundError) else None
            if install is None:
                raise
            raise click.ClickException(f"{error.name} is missing: {install}") from error
        except BrokenPipeError as error:
            _drop(sys.stdout)
            raise click.exceptions.Exit(BROKEN_PIPE) from error
        except OSError as error:
            where = f"{error.filename}: " if error.filename is not None else ""
            raise click.ClickException(_one_line(f"{where}{error.strerror or error}")) from error
        except RuntimeError as error:
            if not str(error).startswith("can't start new thread"):
                raise
            message = "the system allows no more threads; raise the limit (ulimit -u, or that of the container)"
            raise click.ClickException(message) from error
        except MemoryError as error:
            raise click.ClickException(f"the memory is full: {one_line(error)}") from error


def _interrupted() -> click.exceptions.Exit:
    click.echo("Interrupted.", err=True)
    return click.exceptions.Exit(INTERRUPTED)


class Size(click.ParamType):  # type: ignore[type-arg, unused-ignore] # generic from click 8.3 on
    """`HEIGHTxWIDTH` in pixels."""

    name = "HxW"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Read "480x640" as (480, 640)."""
        match = re.fullmatch(r"(\d{1,5})[xX](\d{1,5})", str(value))
        if match is None:
            self.fail(f"{value!r} is not a size: expected HEIGHTxWIDTH in pixels, such as 480x640", param, ctx)
        height, width = int(match[1]), int(match[2])
        try:
            check_size(height, width, PRESETS["tiny"])
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return height, width


class Memory(click.ParamType):  # type: ignore[type-arg, unused-ignore] # generic from click 8.3 on
    """Bytes, such as 512MiB; at least one KiB, as a number without its unit is rarely meant to be bytes."""

    name = "SIZE"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read "4GiB" as 4294967296."""
        from spd.runtime.residency import parse_bytes  # numpy

        try:
            size = parse_bytes(str(value))
        except InputError as error:
            self.fail(str(error), param, ctx)
        if size < 1024:
            self.fail(f"{value!r} are {size} bytes, which is too little; give a unit, such as 4GiB", param, ctx)
        return size


checkpoint_weights = click.option(
    "--weights",
    type=click.Choice(CHECKPOINT_WEIGHTS),
    default="auto",
    show_default=True,
    help="Weights of a checkpoint that has averaged ones (EMA, SWA) and raw ones; auto prefers the averaged.",
)
"""The option of every command that takes a checkpoint."""


def given_options(context: click.Context, names: Collection[str]) -> list[str]:
    """Which of some parameters, given by name, are options on the command line, such as `--max-batch`."""
    return [
        max(parameter.opts, key=len)
        for parameter in context.command.params
        if parameter.name in names and context.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE
    ]


def note(message: str) -> None:
    """Print one line for a person on stderr; stdout is for results."""
    click.echo(_one_line(message), err=True)


def write_stdout(data: bytes) -> None:
    """Write results to stdout.

    Raises:
        OSError: with `standard output` as its `filename`.
    """
    rest = memoryview(data)
    with _named_stdout():
        while rest:  # under PYTHONUNBUFFERED this is a raw file, which writes what a pipe has room for
            rest = rest[sys.stdout.buffer.write(rest) :]
        sys.stdout.buffer.flush()


@contextmanager
def _named_stdout() -> Iterator[None]:
    """Give an error of stdout its name; other errors bring their own."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.filename is not None:
            raise
        _drop(sys.stdout)
        reason = "is closed" if error.errno == errno.EBADF else error.strerror
        raise OSError(error.errno, reason, "standard output") from error


def _one_line(text: str) -> str:
    """File names may hold line breaks."""
    return " ".join(text.splitlines())


def _replace_closed_streams() -> None:
    """Open what the caller closed, as with `>&-` or `2>&-`.

    The next file to be opened would take the place of a closed stream, and get what libraries print.
    """
    if sys.stdin is None:
        os.open(os.devnull, os.O_RDONLY)
    if sys.stdout is None:  # cannot be written: results must not be lost without a word
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_RDONLY), "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", closefd=False)


def _drop(stream: TextIO) -> None:
    """Point a stream at nothing: what could not be written is written again when Python exits, and would fail again."""
    try:
        descriptor = stream.fileno()
    except (AttributeError, OSError, ValueError):  # it is not a file, as in tests
        return
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, descriptor)
    os.close(nothing)
