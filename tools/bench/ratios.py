"""The results: ratios of turns of the same rounds, what is wanted of them, and where a dense network gets faster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tools.bench.measure import Measured
from tools.bench.rows import SPARSE
from tools.bench.spread import Spread, break_even, ratio
from tools.bench.subject import ENCODE

ENCODER, FURTHER = "encoder", "a point more, K = 256 to 1024"
PARTS: dict[str, dict[int, int]] = {
    ENCODER: {ENCODE: 1},
    "T(64)": {ENCODE: 1, 64: 1},
    "T(256)": {ENCODE: 1, 256: 1},
    "decoder, K = 1024": {1024: 1},
    FURTHER: {1024: 1, 256: -1},
}
"""What is compared: how often each work counts. T(K) is to encode an image and to read K points."""

BEST = "best CPU path"
"""In place of a row: SPD in the precision and on the runtime with the least median T(256) on a CPU."""

SPD, LITERAL, LIMIT = "spd/onnxruntime-cpu", "literal/onnxruntime-cpu", "matmul/onnxruntime-cpu"

WANTED_AT = (480, 640)
"""Height and width of the images that what is wanted was said of."""


@dataclass(frozen=True)
class Comparison:
    """A part of a row over the same part of another: over all of a dense network, over its products at `LIMIT`."""

    part: str
    """One of `PARTS`."""
    above: str
    """A row, or `BEST`."""
    below: str
    """A row."""
    most: Mapping[str, float] = field(default_factory=dict)
    """What is wanted at `WANTED_AT`, by preset: at most so much."""

    @property
    def name(self) -> str:
        """For people, and the key in JSON."""
        below = "its products at the matrix rate" if self.below.startswith("matmul/") else self.below
        return f"{self.part}: {self.above} / {below}"


COMPARISONS = (
    Comparison(ENCODER, "spd/onnxruntime-cpu:int8", SPD, {"tiny": 0.62}),
    Comparison(ENCODER, "spd/openvino:bf16", SPD, {"tiny": 0.55}),
    Comparison(ENCODER, "spd/openvino:int8", SPD),
    Comparison(ENCODER, "spd/openvino:int8-bf16", SPD, {"tiny": 0.42}),
    Comparison(ENCODER, SPD, "spd/openvino", {"tiny": 0.90}),
    Comparison(ENCODER, SPD, LIMIT, {"tiny": 1.25}),
    Comparison(FURTHER, SPD, LIMIT, {"tiny": 2.0, "atto": 2.5}),
    Comparison(FURTHER, BEST, LIMIT),
    Comparison("decoder, K = 1024", SPD, LITERAL, {"tiny": 0.25}),
    Comparison("T(256)", BEST, SPD, {"tiny": 0.48}),
    Comparison("T(256)", BEST, "dav2s/onnxruntime-cpu", {"tiny": 0.25}),
    Comparison("T(256)", BEST, "dav2s/openvino:bf16", {"tiny": 0.60}),
    Comparison("T(256)", SPD, "dav2s/onnxruntime-cpu", {"tiny": 0.52}),
    *(
        Comparison("T(256)", f"spd/{backend}", f"dav2s/{backend}")
        for backend in ("openvino", "openvino:bf16", "openvino:int8", "onnxruntime-cuda")
    ),
    Comparison("T(256)", "spd/tensorrt", "dav2s/onnxruntime-cuda"),  # a dense network of its own it does not have
    *(
        Comparison(part, f"spd/{backend}", f"{network}/{backend}", most)
        for part, network, most in (("T(64)", "yolo26n", {"atto": 0.85}), ("T(256)", "yolo26m", {"tiny": 1.2}))
        for backend in ("onnxruntime-cpu", "openvino:bf16")
    ),
)
"""What is compared wherever both rows were measured, and what is wanted."""


@dataclass(frozen=True)
class Ratio:
    """One result."""

    above: str
    """The row, also where the comparison says `BEST`."""
    spread: Spread
    most: float | None
    """What is wanted: at most so much."""

    @property
    def wanted(self) -> str:
        """The same for people, with what became of it."""
        if self.most is None:
            return ""
        return f"at most {self.most:.2f}" + ("" if self.spread.median <= self.most else ": missed")


def ratios(rows: Mapping[str, Measured], preset: str | None, size: tuple[int, int]) -> dict[str, Ratio]:
    """All results of one size by name: those whose rows were measured, with the K that they need.

    Args:
        rows: what was measured, by row.
        preset: SPD's network, if it is one of the presets.
        size: height and width, pixels.
    """
    found = {}
    for one in COMPARISONS:
        above, below = best_cpu_path(rows) if one.above == BEST else one.above, one.below
        if above not in rows or below not in rows:
            continue
        part, needing = PARTS[one.part], [row for row in (above, below) if rows[row].row.network in SPARSE]
        if all(work in rows[row].turns for row in needing for work in part):
            most = one.most.get(preset or "") if size == WANTED_AT else None
            found[one.name] = Ratio(above, _ratio(rows[above], rows[below], part), most)
    return found


def best_cpu_path(rows: Mapping[str, Measured]) -> str:
    """SPD's row on a CPU with the least median T(256); of those without K = 256 none, an empty text."""
    found = {
        name: Spread.of(totals(one, 256)).median
        for name, one in rows.items()
        if one.row.network == "spd" and not one.row.on_gpu and 256 in one.turns
    }
    return min(found, key=lambda name: found[name], default="")


def totals(measured: Measured, count: int) -> list[float]:
    """T(K), milliseconds of each round."""
    return _combined(measured, {ENCODE: 1, count: 1})


def share(measured: Measured, limit: Measured, work: int) -> Spread:
    """Multiply-accumulates per second of some work over those of the limit."""
    return ratio(_at_limit(measured, limit, {work: 1}), measured.turns[work])


def break_evens(sparse: Mapping[int, Sequence[float]], dense: Sequence[float]) -> Spread:
    """The K from which a dense network is faster, of every round.

    Args:
        sparse: milliseconds of each round, by work.
        dense: milliseconds of each round.
    """
    found = []
    for number, of_dense in enumerate(dense):
        turns = {work: times[number] for work, times in sparse.items()}
        found.append(break_even(turns.pop(ENCODE), turns, of_dense))
    return Spread.of(found)


def _ratio(above: Measured, below: Measured, part: Mapping[int, int]) -> Spread:
    if below.row.network == "matmul":
        return ratio(_combined(above, part), _at_limit(above, below, part))
    return ratio(_combined(above, part), _combined(below, part) if below.row.network in SPARSE else below.turns[ENCODE])


def _combined(measured: Measured, part: Mapping[int, int]) -> list[float]:
    """Milliseconds of a part of each round."""
    times = zip(*(measured.turns[work] for work in part), strict=True)
    return [sum(a * b for a, b in zip(part.values(), one, strict=True)) for one in times]


def _at_limit(measured: Measured, limit: Measured, part: Mapping[int, int]) -> list[float]:
    """Milliseconds that the products of a part take at the rate of the limit, of each round."""
    macs = sum(times * measured.of.macs[work] for work, times in part.items())
    return [macs * ms / limit.of.macs[ENCODE] for ms in limit.turns[ENCODE]]
