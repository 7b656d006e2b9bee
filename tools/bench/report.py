"""A finished benchmark: as JSON, and as Markdown for people."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tools.bench.measure import Measured, Skipped
from tools.bench.ratios import Ratio, ratios, share, totals
from tools.bench.rows import Row
from tools.bench.spread import Spread
from tools.bench.subject import ENCODE

FORMAT = "spd-bench"
FORMAT_VERSION = 1

ENCODE_PARTS = {"spd": "encode", "literal": "encode", "dav2s": "dense", "matmul": "product"}
"""What the work `ENCODE` is called in JSON, by network."""


@dataclass(frozen=True)
class Report:
    """Everything that was measured, and where."""

    measured: tuple[Measured, ...]
    skipped: tuple[Skipped, ...]
    counts: tuple[int, ...]
    """The K."""
    about: Mapping[str, Any]
    """machine, versions, date, command and the like."""
    notes: tuple[str, ...]
    """What to know when reading it."""

    def sizes(self) -> list[tuple[int, int]]:
        """Height and width, pixels, in the order of measuring."""
        return list(dict.fromkeys((one.of.height, one.of.width) for one in self.measured))

    def of_size(self, height: int, width: int) -> dict[Row, Measured]:
        """The rows of a size."""
        return {one.row: one for one in self.measured if (one.of.height, one.of.width) == (height, width)}

    def ratios(self) -> dict[str, dict[str, Ratio]]:
        """The results by name and size."""
        found: dict[str, dict[str, Ratio]] = {}
        for height, width in self.sizes():
            for name, ratio in ratios(self.of_size(height, width)).items():
                found.setdefault(name, {})[f"{height}x{width}"] = ratio
        return found

    def as_dict(self) -> dict[str, Any]:
        """For JSON. Times are milliseconds, memory is megabytes; `rounds_ms` is what the rounds said, in order."""
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            **self.about,
            "notes": list(self.notes),
            "ratios": {
                name: {size: _ratio_dict(ratio) for size, ratio in by_size.items()}
                for name, by_size in self.ratios().items()
            },
            "rows": [row for one in self.measured for row in self._rows(one)],
            "skipped": [asdict(one) for one in self.skipped],
        }

    def _rows(self, one: Measured) -> Iterable[dict[str, Any]]:
        limit = self.of_size(one.of.height, one.of.width).get(one.row.limit)
        for work, turns in sorted(one.turns.items()):
            parts = [(ENCODE_PARTS[one.row.network] if work == ENCODE else "decode", turns, one.of.macs[work])]
            if work != ENCODE:
                parts.append(("total", totals(one, work), one.of.macs[ENCODE] + one.of.macs[work]))
            for part, values, macs in parts:
                spread = Spread.of(values)
                yield {
                    "name": one.row.network,
                    "backend": one.row.backend,
                    "size": one.of.size,
                    "part": part,
                    "K": work,
                    "median_ms": spread.median,
                    "p10_ms": spread.p10,
                    "p90_ms": spread.p90,
                    "gmac": macs / 1e9,
                    "peak_mb": one.peak_mb[work],
                    "scene_mb": one.scene_mb,
                    "matmul_share": None if limit is None or part == "total" else asdict(share(one, limit, work)),
                    "rounds_ms": values,
                }

    def markdown(self) -> str:
        """The results, the table of rows, and what was not measured."""
        parts = [f"# Benchmark of {self.about['preset']}, {self.about['date']}", self._context(), "## Ratios"]
        parts.append(table(["ratio", "size", "median (p10–p90)", "meaning"], self._ratio_lines(), left=(0, 3)))
        parts += ["## Rows", table(self._columns(), self._row_lines(), left=(0, 1)), LEGEND]
        if self.skipped:
            lines = [[one.row, one.size, one.reason] for one in self.skipped]
            parts += ["## Not measured", table(["row", "size", "reason"], lines, left=(0, 2))]
        return "\n\n".join(parts) + "\n"

    def _context(self) -> str:
        machine = self.about["machine"]
        load = machine["load_before"]
        lines = [
            f"{machine['cpu']}, {machine['cores']} cores; threads: {machine['threads']}, on as many cores; "
            f"{', '.join(machine['gpus']) or 'no GPU'}; {self.about['rounds']} rounds"
            + ("" if load is None else f"; load average before: {load:.2f}"),
            ", ".join(f"{package} {version}" for package, version in self.about["versions"].items()),
            f"`{self.about['command']}`",
            *self.notes,
        ]
        return "\n".join(f"- {line}" for line in lines)

    def _ratio_lines(self) -> list[list[str]]:
        return [
            [name, size, ratio.reason or "" if ratio.spread is None else spread_text(ratio.spread), ratio.meaning]
            for name, by_size in self.ratios().items()
            for size, ratio in by_size.items()
        ]

    def _columns(self) -> list[str]:
        return [
            "row", "size", "encode ms", *(f"T({count}) ms" for count in self.counts),
            "GMAC", "MMAC/point", "rate", "MB", "MB/scene",
        ]  # fmt: skip

    def _row_lines(self) -> list[list[str]]:
        lines = []
        for one in self.measured:
            counts = [work for work in one.turns if work != ENCODE]
            limit = self.of_size(one.of.height, one.of.width).get(one.row.limit)
            rate = "" if limit is None else f"{share(one, limit, ENCODE).median:.0%}"
            lines.append(
                [
                    str(one.row),
                    one.of.size,
                    spread_text(Spread.of(one.turns[ENCODE])),
                    *(spread_text(Spread.of(totals(one, k))) if k in counts else "" for k in self.counts),
                    number(one.of.macs[ENCODE] / 1e9),
                    number(one.of.macs[max(counts)] / max(counts) / 1e6) if counts else "",
                    rate,
                    "" if one.row.network == "matmul" else f"{max(one.peak_mb.values()):.0f}",
                    "" if one.scene_mb is None else f"{one.scene_mb:.1f}",
                ]
            )
        return lines


LEGEND = (
    "encode: the whole network for dav2s, one product for matmul. T(K): encode and decode K points. GMAC, rate: of "
    "encode; rate is its multiply-accumulates per second over those of matmul on the same device. MB: peak memory of "
    "the row's process, libraries included; MB/scene: what it keeps of an image for its queries. Cells are medians "
    "with 10th and 90th percentile over the rounds. Times depend on the machine; the ratios are the result."
)


def spread_text(spread: Spread) -> str:
    """A median and its percentiles to three digits, such as `612 (605–640)`."""
    return f"{number(spread.median)} ({number(spread.p10)}–{number(spread.p90)})"


def number(value: float) -> str:
    """A number to three digits, `never` for an infinite one."""
    if math.isinf(value):
        return "never"
    if value == 0 or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def _ratio_dict(ratio: Ratio) -> dict[str, Any]:
    """JSON has no infinity: what never happens is null, and says so in `text`."""
    if ratio.spread is None:
        return {"meaning": ratio.meaning, "median": None, "p10": None, "p90": None, "text": ratio.reason}
    values = {
        name: None if isinstance(value, float) and math.isinf(value) else value
        for name, value in asdict(ratio.spread).items()
    }
    return {"meaning": ratio.meaning, **values, "text": spread_text(ratio.spread)}


def table(columns: Sequence[str], lines: Sequence[Sequence[str]], left: Sequence[int] = ()) -> str:
    """A Markdown table; numbers to the right but for the columns `left`."""
    rule = ["---" if i in left else "---:" for i in range(len(columns))]
    cells = [[cell.replace("|", "\\|") for cell in line] for line in (columns, rule, *lines)]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)
