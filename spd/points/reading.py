"""Where points come from: a CSV file, standard input, or a pattern."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import BinaryIO

from spd.errors import PointsError
from spd.points.parsing import parse_points
from spd.points.patterns import Pattern, parse_pattern
from spd.points.table import PointTable


def read_points(source: str, stdin: BinaryIO | None = None) -> PointTable | Pattern:
    """Read the points that `source` names: a CSV file, `-` (stdin), `grid:N` or `random:N[:SEED]`.

    Raises:
        PointsError: the file cannot be read, or a row of it does not hold a point; or N or SEED is not a number.
    """
    kind, colon, numbers = source.partition(":")
    if colon and kind in ("grid", "random"):
        return parse_pattern(source, kind, numbers)
    if source == "-":
        if stdin is None and sys.stdin is None:
            raise PointsError("standard input is closed; pipe a CSV into it, or name a file with --points")
        return parse_points((stdin or sys.stdin.buffer).read(), "standard input")
    if "://" in source:
        raise PointsError(f"{source} is an address, expected a file; pipe it: curl {source} | spd-infer ... --points -")
    try:
        data = Path(source).read_bytes()
    except FileNotFoundError as error:
        raise PointsError(f"{source} does not exist; give a CSV file, -, grid:N or random:N") from error
    except (OSError, ValueError) as error:
        if Path(source).is_dir():
            raise PointsError(
                f"{source or repr(source)} is a folder, expected a CSV file with the columns u,v"
            ) from error
        raise PointsError(f"{source} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    return parse_points(data, source)
