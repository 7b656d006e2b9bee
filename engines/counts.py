"""8 bits beside float16 by what the compiler lists: kernels and the bytes that they move. Nothing is timed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from spd.bundle.contract import QUANTISED
from spd.bundle.manifest import GRAPHS

BESIDE = "fp16"
"""What 8 bits are compared with."""


@dataclass(frozen=True)
class Counts:
    """One graph, or one profile of it."""

    what: str
    """Such as encoder, or decoder at K = 256."""
    kernels: int
    moved_bytes: int


def counts_line(precision: str, eight: Iterable[Counts], sixteen: Iterable[Counts]) -> str:
    """One line that compares the same graphs in 8 bits and in float16.

    Args:
        precision: int8-fp16 or fp8.
        eight: of its graphs.
        sixteen: of the float16 graphs, in the same order.
    """
    pairs = list(zip(eight, sixteen, strict=True))
    found = "; ".join(f"{mine.what} {_numbers(mine)} against {_numbers(other)}" for mine, other in pairs)
    more = [mine.kernels >= other.kernels and mine.moved_bytes >= other.moved_bytes for mine, other in pairs]
    less = [mine.kernels <= other.kernels and mine.moved_bytes <= other.moved_bytes for mine, other in pairs]
    verdict = "only runs on the GPU tell which is faster"
    if all(more):
        verdict = f"by these counts {BESIDE} is not slower"
    elif all(less):
        verdict = f"by these counts {precision} is not slower"
    return f"{precision} against {BESIDE}, counted and not timed: {found}: {verdict}"


def compare_builds(report: Mapping[str, Any], precision: str) -> str | None:
    """The line for two precisions of one bundle, or None where both were not compiled alike.

    Args:
        report: of one flavour, from `engines.json`, with what each precision became.
        precision: int8-fp16 or fp8.
    """
    if (
        precision not in QUANTISED
        or not {precision, BESIDE} <= report.keys()
        or report[precision]["target"] != report[BESIDE]["target"]
    ):
        return None
    eight, sixteen = ({c.what: c for c in _report_counts(report[p])} for p in (precision, BESIDE))
    shared = [what for what in eight if what in sixteen]
    return counts_line(precision, [eight[w] for w in shared], [sixteen[w] for w in shared]) if shared else None


def _report_counts(entry: Mapping[str, Any]) -> list[Counts]:
    """Every profile for one image whose kernels and bytes the compiler gave."""
    return [
        Counts(
            f"decoder at K = {facts['points'][2]}" if facts["points"] else graph, facts["kernels"], facts["moved_bytes"]
        )
        for graph in GRAPHS
        for facts in entry[graph]["profiles"]
        if "moved_bytes" in facts and facts["batch"][2] == 1
    ]


def _numbers(counts: Counts) -> str:
    return f"{counts.kernels} kernels, {counts.moved_bytes / 1e6:.1f} MB"
