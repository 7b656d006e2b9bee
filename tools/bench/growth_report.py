"""How something grows, as JSON and as Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tools.bench.measure import Skipped
from tools.bench.report import number, spread_text, table
from tools.bench.spread import Spread

LEGEND = (
    "Exponents are of the cost since the line before; 1 is proportional. MB: peak memory of the process, libraries "
    "included. ms: median with 10th and 90th percentile over the rounds."
)


@dataclass(frozen=True)
class Line:
    """One measurement."""

    at: str
    """The value of what grows, for people."""
    amount: float
    """The same as a number: K, megapixels or images."""
    encode_ms: Spread
    """All images together."""
    decode_ms: Spread
    """K points of every image."""
    points: int
    """K."""
    encode_gmac: float
    peak_mb: float
    """Peak memory of the process up to here."""
    scene_mb: float
    """Kept of all images."""


@dataclass(frozen=True)
class Growth:
    """What something that grows costs."""

    grows: str
    """K, size or batch."""
    title: str
    lines: tuple[Line, ...]
    """In ascending order."""


@dataclass(frozen=True)
class GrowthReport:
    """All that was measured, and where."""

    parts: tuple[Growth, ...]
    skipped: tuple[Skipped, ...]
    about: Mapping[str, Any]
    """machine, versions, date, command and the like."""
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON; milliseconds and megabytes."""
        return {
            "format": "spd-bench-growth",
            "format_version": 1,
            **self.about,
            "notes": list(self.notes),
            "growth": {part.grows: [asdict(line) for line in part.lines] for part in self.parts},
            "skipped": [asdict(one) for one in self.skipped],
        }

    def markdown(self) -> str:
        """A table for each."""
        machine = self.about["machine"]
        lines = [f"{machine['cpu']}, threads: {machine['threads']}", f"`{self.about['command']}`", *self.notes]
        parts = [f"# Growth of {self.about['preset']}, {self.about['date']}", "\n".join(f"- {line}" for line in lines)]
        for part in self.parts:
            parts += [f"## {part.title}", growth_table(part)]
        parts.append(LEGEND)
        if self.skipped:
            parts += ["## Not measured", table(["size", "reason"], [[one.size, one.reason] for one in self.skipped])]
        return "\n\n".join(parts) + "\n"


def exponents(amounts: Sequence[float], costs: Sequence[float]) -> list[float | None]:
    """Exponents e of cost ~ amount^e between each value and the one before it; None for the first."""
    found: list[float | None] = [None]
    for (less, before), (more, after) in zip(
        zip(amounts, costs, strict=True), zip(amounts[1:], costs[1:], strict=True), strict=False
    ):
        found.append(math.log(after / before) / math.log(more / less))
    return found


def growth_table(part: Growth) -> str:
    """The table of one growth; what does not change with K is left out of K's."""
    amounts = [line.amount for line in part.lines]
    decode = exponents(amounts, [line.decode_ms.median for line in part.lines])
    encode = exponents(amounts, [line.encode_ms.median for line in part.lines])
    columns = [part.grows, "decode ms", "µs/point", "exponent", "MB"]
    if part.grows != "K":
        columns = [part.grows, "GMAC", "encode ms", "exponent", *columns[1:], "MB kept"]
    rows = []
    for line, of_encode, of_decode in zip(part.lines, encode, decode, strict=True):
        # K counts points; for a batch every image has K of them.
        images = line.amount if part.grows == "batch" else 1
        row = [
            spread_text(line.decode_ms),
            number(line.decode_ms.median * 1e3 / (line.points * images)),
            _exponent(of_decode),
            f"{line.peak_mb:.0f}",
        ]
        if part.grows != "K":
            row = [number(line.encode_gmac), spread_text(line.encode_ms), _exponent(of_encode), *row]
            row.append(f"{line.scene_mb:.1f}")
        rows.append([line.at, *row])
    return table(columns, rows)


def _exponent(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
