"""A finished benchmark: as JSON, and as Markdown for people."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tools.bench.measure import SETTLE_SECONDS, Measured, Skipped
from tools.bench.ratios import WANTED_AT, Ratio, break_evens, ratios, share, totals
from tools.bench.rows import SPARSE
from tools.bench.spread import Spread
from tools.bench.subject import ENCODE

FORMAT = "spd-bench"
FORMAT_VERSION = 2


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

    def of_size(self, height: int, width: int) -> dict[str, Measured]:
        """What was measured at a size, by row."""
        return {str(one.row): one for one in self.measured if (one.of.height, one.of.width) == (height, width)}

    def ratios(self) -> dict[str, dict[str, Ratio]]:
        """The results by name and size."""
        found: dict[str, dict[str, Ratio]] = {}
        for size in self.sizes():
            for name, ratio in ratios(self.of_size(*size), self.about["network"], size).items():
                found.setdefault(name, {})["{}x{}".format(*size)] = ratio
        return found

    def break_evens(self, height: int, width: int) -> dict[str, dict[str, Spread]]:
        """The K from which each dense network is faster than each other row, at a size."""
        rows = self.of_size(height, width)
        sparse = {name: one for name, one in rows.items() if one.row.network in SPARSE}
        dense = {name: one for name, one in rows.items() if one.row.network not in (*SPARSE, "matmul")}
        return {
            name: {row: break_evens(one.turns, of_dense.turns[ENCODE]) for row, one in sparse.items()}
            for name, of_dense in dense.items()
            if sparse
        }

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
            "break_even_k": {
                f"{size[0]}x{size[1]}": {
                    dense: {row: _spread_dict(found) for row, found in by_row.items()}
                    for dense, by_row in self.break_evens(*size).items()
                }
                for size in self.sizes()
            },
            "rows": [row for one in self.measured for row in self._rows(one)],
            "skipped": [asdict(one) for one in self.skipped],
        }

    def _rows(self, one: Measured) -> Iterable[dict[str, Any]]:
        limit = self.of_size(one.of.height, one.of.width).get(str(one.row.limit))
        for work, turns in sorted(one.turns.items()):
            parts = [(_encode_part(one) if work == ENCODE else "decode", turns, one.of.macs[work])]
            if work != ENCODE:
                parts.append(("total", totals(one, work), one.of.macs[ENCODE] + one.of.macs[work]))
            for part, values, macs in parts:
                spread = Spread.of(values)
                yield {
                    "name": one.row.network,
                    "backend": one.row.backend,
                    "precision": one.row.precision,
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
        """The results, the tables of rows and break-evens, how it was measured, and what was not."""
        parts = [f"# Benchmark of {self.about['preset']}, {self.about['date']}", self._context(), "## Ratios"]
        wanted = "wanted at {}x{}".format(*WANTED_AT)
        parts.append(table(["ratio", "size", "median (p10–p90)", wanted], self._ratio_lines(), left=(0, 3)))
        parts += ["## Rows", table(self._columns(), self._row_lines(), left=(0, 1)), LEGEND]
        for size in self.sizes():
            if found := self.break_evens(*size):
                parts.append("## K from which a dense network is faster, {}x{}".format(*size))
                lines = [
                    [name, *(spread_text(one, count_text) for one in by_row.values())] for name, by_row in found.items()
                ]
                parts.append(table(["", *next(iter(found.values()))], lines, left=(0,)))
        parts += ["## How it was measured", "\n".join(f"- {line}" for line in FAULTS)]
        if self.skipped:
            lines = [[one.row, one.size, one.reason] for one in self.skipped]
            parts += ["## Not measured", table(["row", "size", "reason"], lines, left=(0, 2))]
        return "\n\n".join(parts) + "\n"

    def _context(self) -> str:
        machine = self.about["machine"]
        load, others = machine["load_before"], machine["others"]
        lines = [
            f"{machine['cpu']}, {machine['cores']} cores; threads: {machine['threads']}, on as many cores; "
            f"{', '.join(machine['gpus']) or 'no GPU'}; {self.about['rounds']} rounds"
            + ("" if load is None else f"; load average before: {load:.2f}")
            + ("" if others is None else f"; taken by others meanwhile: {others:.1%} of the processor"),
            ", ".join(f"{package} {version}" for package, version in self.about["versions"].items()),
            f"`{self.about['command']}`",
            *self.notes,
        ]
        return "\n".join(f"- {line}" for line in lines)

    def _ratio_lines(self) -> list[list[str]]:
        return [
            [
                name if ratio.above in name else f"{name} (it is {ratio.above})",
                size,
                spread_text(ratio.spread),
                ratio.wanted,
            ]
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
            limit = self.of_size(one.of.height, one.of.width).get(str(one.row.limit))
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
    "encode: the whole of a dense network, one product for matmul. T(K): encode and decode K points. GMAC, rate: of "
    "encode; rate is its multiply-accumulates per second over those of matmul, on a CPU in float32, there. "
    "MB: peak memory of the row's process, libraries included; MB/scene: what it keeps of an image for its queries. "
    "Cells are medians with 10th and 90th percentile over the rounds. Times depend on the machine; the ratios are the "
    "result. A row is in float32 if it does not say else. bf16: the encoder, or a dense network, in bfloat16. int8: "
    "products by weights in 8 bits. Nobody looked at what that does to the accuracy of dense networks."
)

FAULTS = (
    "Rows have processes of their own, held to the same cores. Their turns alternate within a round, forth and back, "
    "and ratios are taken within rounds: a machine that gets hot or slower does so for all.",
    "The first call of a turn does not count. It finds caches that are full of other rows' data, and sleeping threads.",
    f"Threads of ONNX Runtime and OpenMP spin for a while after a call. Before each turn everything sleeps for "
    f"{SETTLE_SECONDS * 1e3:.0f} ms, and ONNX Runtime stops spinning after each call, as in SPD's backend.",
    "OpenVINO does not pin its threads, as in SPD's backend: several models would be pinned to the same cores. SPD's "
    "decoder has fixed tiles there. An open K would be compiled anew for every K, for 10 to 40 ms.",
    "Decoding and resizing photos is not in these times, nor is reading a dense map at the points. SPD's encoder "
    "takes bytes and normalises them; dense networks get normalised float32.",
    "The best CPU path is chosen by the medians of the same run, so it is a little flattered where several are equal.",
)
"""What could be wrong with the numbers, and what is done about it."""


def spread_text(spread: Spread, text: Callable[[float], str] | None = None) -> str:
    """A median and its percentiles, such as `612 (605–640)`; numbers to three digits unless `text` writes them."""
    text = text or number
    return f"{text(spread.median)} ({text(spread.p10)}–{text(spread.p90)})"


def count_text(value: float) -> str:
    """A number of points: whole, `never` for an infinite one."""
    return "never" if math.isinf(value) else f"{value:,.0f}"


def number(value: float) -> str:
    """A number to three digits, `never` for an infinite one."""
    if math.isinf(value):
        return "never"
    if value == 0 or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def _encode_part(one: Measured) -> str:
    """What the work `ENCODE` is called in JSON."""
    return "encode" if one.row.network in SPARSE else "product" if one.row.network == "matmul" else "dense"


def _spread_dict(spread: Spread) -> dict[str, Any]:
    """JSON has no infinity: what never happens is null, and says so in `text`."""
    values = {
        name: None if isinstance(value, float) and math.isinf(value) else value
        for name, value in asdict(spread).items()
    }
    return {**values, "text": spread_text(spread)}


def _ratio_dict(ratio: Ratio) -> dict[str, Any]:
    return {"above": ratio.above, **_spread_dict(ratio.spread), "wanted": ratio.wanted}


def table(columns: Sequence[str], lines: Sequence[Sequence[str]], left: Sequence[int] = ()) -> str:
    """A Markdown table; numbers to the right but for the columns `left`."""
    rule = ["---" if i in left else "---:" for i in range(len(columns))]
    cells = [[cell.replace("|", "\\|") for cell in line] for line in (columns, rule, *lines)]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)
