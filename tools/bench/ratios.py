"""The results: ratios of turns of the same rounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tools.bench.measure import Measured
from tools.bench.rows import SPARSE, Row
from tools.bench.spread import Spread, break_even, ratio
from tools.bench.subject import ENCODE

SLOPE = 256, 1024
"""The K between which the marginal cost of a point is taken."""


@dataclass(frozen=True)
class Ratio:
    """One result."""

    meaning: str
    """For people."""
    spread: Spread | None
    """None if a row is missing."""
    reason: str | None = None
    """What is missing."""


SPD = Row("spd", "onnxruntime-cpu")
OPENVINO = Row("spd", "openvino")
LITERAL = Row("literal", "onnxruntime-cpu")
DENSE = Row("dav2s", "onnxruntime-cpu")
LIMIT = Row("matmul", "onnxruntime-cpu")

BY_ROW = Mapping[Row, Measured]

PAIRS = {
    "": (SPD, DENSE),
    "_openvino": (OPENVINO, Row("dav2s", "openvino")),
    "_literal": (LITERAL, DENSE),
    "_cuda": (Row("spd", "onnxruntime-cuda"), Row("dav2s", "onnxruntime-cuda")),
    "_tensorrt": (Row("spd", "tensorrt"), Row("dav2s", "onnxruntime-cuda")),
}
"""Rows that are held to a dense one, by what their ratios' names end in. TensorRT has no dense network of its own."""


def ratios(rows: BY_ROW) -> dict[str, Ratio]:
    """All results of one size, by name; those of `PAIRS` other than the first only where both were measured."""
    k, slope = 256, f"K = {SLOPE[0]} to {SLOPE[1]}"
    found = {
        "encoder_over_openvino": _ratio(
            rows, (SPD, OPENVINO), (), "encoder on ONNX Runtime over the same graph on OpenVINO", _encoders
        ),
        "encoder_share_of_matmul_rate": _ratio(
            rows,
            (SPD, LIMIT),
            (),
            "multiply-accumulates per second of the encoder over those of a large matrix product",
            lambda above, below: share(above, below, ENCODE),
        ),
        "literal_over_deployed_k1024": _ratio(
            rows,
            (LITERAL, SPD),
            (1024,),
            "decoder as written over decoder as deployed, K = 1024",
            lambda above, below: ratio(above.turns[1024], below.turns[1024]),
        ),
        "slope_over_matmul_limit": _ratio(
            rows, (SPD, LIMIT), SLOPE, f"time per further point, {slope}, over its products at the matrix rate", _slope
        ),
    }
    for ending, (sparse, dense) in PAIRS.items():
        if ending and not (sparse in rows and dense in rows):
            continue
        what = f"{sparse} against {dense}"
        found[f"total_k{k}_over_dav2s{ending}"] = _ratio(
            rows,
            (sparse, dense),
            (k,),
            f"encode and decode K = {k} over the dense network, {what}",
            lambda above, below: ratio(totals(above, k), below.turns[ENCODE]),
        )
        found[f"break_even_k{ending}"] = _ratio(
            rows, (sparse, dense), (), f"K from which the dense network is faster, {what}", break_evens
        )
    return found


def totals(measured: Measured, count: int) -> list[float]:
    """T(K), milliseconds of each round."""
    return [a + b for a, b in zip(measured.turns[ENCODE], measured.turns[count], strict=True)]


def share(measured: Measured, limit: Measured, work: int) -> Spread:
    """Multiply-accumulates per second of some work over those of the limit."""
    macs, of_limit = measured.of.macs[work], limit.of.macs[ENCODE]
    return ratio([macs / ms for ms in measured.turns[work]], [of_limit / ms for ms in limit.turns[ENCODE]])


def break_evens(sparse: Measured, dense: Measured) -> Spread:
    """The break-even K of every round."""
    counts = [work for work in sparse.turns if work != ENCODE]
    found = []
    for number, of_dense in enumerate(dense.turns[ENCODE]):
        decode = {count: sparse.turns[count][number] for count in counts}
        found.append(break_even(sparse.turns[ENCODE][number], decode, of_dense))
    return Spread.of(found)


def _encoders(above: Measured, below: Measured) -> Spread:
    return ratio(above.turns[ENCODE], below.turns[ENCODE])


def _slope(measured: Measured, limit: Measured) -> Spread:
    low, high = SLOPE
    macs = measured.of.macs[high] - measured.of.macs[low]
    times = [b - a for a, b in zip(measured.turns[low], measured.turns[high], strict=True)]
    return ratio(times, [macs * ms / limit.of.macs[ENCODE] for ms in limit.turns[ENCODE]])


def _ratio(
    rows: BY_ROW,
    needed: tuple[Row, Row],
    counts: tuple[int, ...],
    meaning: str,
    compute: Callable[[Measured, Measured], Spread],
) -> Ratio:
    """A ratio of two rows, of which those that have a decoder must have been asked for certain K."""
    missing = [str(row) for row in needed if row not in rows]
    if missing:
        return Ratio(meaning, None, f"needs {' and '.join(missing)}")
    for row in needed:
        lacking = [str(count) for count in counts if row.network in SPARSE and count not in rows[row].turns]
        if lacking:
            return Ratio(meaning, None, f"needs {row} with K = {', '.join(lacking)}")
    return Ratio(meaning, compute(*(rows[row] for row in needed)))
