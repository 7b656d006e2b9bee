"""What all commands of the project share: sizes, and how they fail.

| what happened | stderr | exit code |
|---|---|---|
| an SPDError, or a file that cannot be read or written | `Error: ...`, one line | 1 |
| wrong arguments (`click.UsageError`) | usage and `Error: ...` | 2 |
| Ctrl-C | `Interrupted.` | 130 |
| the reader of stdout went away (`| head`) | nothing | 141 |
"""

from __future__ import annotations

import errno
import os
import re
import sys
from typing import Any

import click

from spd.config import PRESETS, check_size
from spd.errors import SPDError
from spd.files import CHECKPOINT_WEIGHTS

INTERRUPTED = 130
"""128 + SIGINT, what a shell reports for a command ended by Ctrl-C."""
BROKEN_PIPE = 141
"""128 + SIGPIPE, what a shell reports for a command whose reader went away."""


class Command(click.Command):
    """A click command that ends as the table above says; use it with `@click.command(cls=Command)`."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except SPDError as error:
            raise click.ClickException(_one_line(str(error))) from error
        except (KeyboardInterrupt, click.Abort):
            click.echo("Interrupted.", err=True)
            ctx.exit(INTERRUPTED)
        except ImportError as error:
            # Ctrl-C while a C extension is imported comes out as an ImportError.
            if not isinstance(error.__cause__, KeyboardInterrupt):
                raise
            click.echo("Interrupted.", err=True)
            ctx.exit(INTERRUPTED)
        except BrokenPipeError:
            _drop_stdout()
            ctx.exit(BROKEN_PIPE)
        except OSError as error:
            where = f"{error.filename}: " if error.filename is not None else ""
            raise click.ClickException(_one_line(f"{where}{error.strerror or error}")) from error


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


checkpoint_weights = click.option(
    "--weights",
    type=click.Choice(CHECKPOINT_WEIGHTS),
    default="auto",
    show_default=True,
    help="Weights of a checkpoint that has averaged ones (EMA, SWA) and raw ones; auto prefers the averaged.",
)
"""The option of every command that takes a checkpoint."""


def note(message: str) -> None:
    """Print one line for a person on stderr; stdout is for results."""
    click.echo(_one_line(message), err=True)


def write_stdout(data: bytes) -> None:
    """Write results to stdout.

    Raises:
        OSError: with `standard output` as its `filename`.
    """
    if sys.stdout is None:  # closed by the caller, as with >&-
        raise OSError(errno.EBADF, "is closed", "standard output")
    rest = memoryview(data)
    try:
        while rest:  # under PYTHONUNBUFFERED this is a raw file, which writes what a pipe has room for
            rest = rest[sys.stdout.buffer.write(rest) :]
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _drop_stdout()
        raise OSError(error.errno, error.strerror, "standard output") from error


def _one_line(text: str) -> str:
    """File names may hold line breaks."""
    return " ".join(text.splitlines())


def _drop_stdout() -> None:
    """Point stdout at nothing: what could not be written is written again when Python exits, and would fail again."""
    try:
        descriptor = sys.stdout.fileno()
    except (AttributeError, OSError, ValueError):  # no stdout, or one that is not a file, as in tests
        return
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, descriptor)
    os.close(nothing)
