"""The gate of 8-bit graphs: what quantising them changes, in metres, on rooms that no network was trained on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.parity import BATCHES, point_counts
from export.runners import GraphFiles, OnnxRuntimeRunner
from spd.bundle.comparison import Comparison, compare
from spd.bundle.gate import TOLERANCES
from spd.bundle.reference import Reference
from spd.data.pairs import Pair
from spd.data.rooms import RoomPairs
from spd.evaluation import Settings, evaluate
from spd.utils.metrics import Metrics

ROOMS = 100
"""Rooms of the test split, the first ones, as `spd-eval` takes them."""

POINTS = 64
"""Points asked of each."""

MAX_ABS_REL = 1e-3
"""Most that AbsRel may move."""
MAX_DELTA = 0.5e-2
"""Most that a delta may move."""
MAX_CHANGE = 2e-2
"""Largest mean relative change of a depth."""


@dataclass(frozen=True)
class RoomDepths:
    """What one pair of graphs says of the rooms."""

    metrics: Metrics
    """Mean over the rooms, against their true depth."""
    depth: NDArray[np.float64]
    """Metres, of all rooms one after the other."""


@dataclass(frozen=True)
class QuantisedResult(Comparison):
    """What the gate measured for one 8-bit precision."""

    exact: RoomDepths
    """Of the float32 graphs."""
    rooms: RoomDepths
    """Of the 8-bit graphs."""
    trained: bool
    """Whether depth means something; the metrics of untrained weights do not."""

    @property
    def change(self) -> float:
        """Mean relative change of a depth in the rooms."""
        return float(np.abs(self.rooms.depth / self.exact.depth - 1).mean())

    @property
    def moved(self) -> dict[str, float]:
        """By how much each metric is higher than in float32."""
        before, after = asdict(self.exact.metrics), asdict(self.rooms.metrics)
        return {name: after[name] - before[name] for name in before}

    @property
    def passed(self) -> bool:
        """Whether everything is within its tolerance; NaN is not."""
        moved = self.moved
        metrics = abs(moved["abs_rel"]) <= MAX_ABS_REL and all(
            abs(moved[name]) <= MAX_DELTA for name in ("delta1", "delta2", "delta3")
        )
        return super().passed and self.change <= MAX_CHANGE and (metrics or not self.trained)

    @property
    def difference(self) -> str:
        """How far they are from each other, for messages."""
        moved = self.moved
        delta = max((moved[f"delta{n}"] for n in (1, 2, 3)), key=abs)
        metrics = (
            f", AbsRel moves by {moved['abs_rel']:+.2g} (at most {MAX_ABS_REL:g}), a delta by {100 * delta:+.2f} "
            f"points (at most {100 * MAX_DELTA:g})"
        )
        return (
            f"on {ROOMS} rendered rooms a depth changes by {self.change:.2%} on average (at most {MAX_CHANGE:.0%})"
            f"{metrics if self.trained else ''}; on the images of the gate {super().difference}"
        )

    def as_dict(self) -> dict[str, Any]:
        """For `parity.json`."""
        rooms = {
            "count": ROOMS,
            "points": POINTS,
            "mean_change": self.change,
            "fp32": asdict(self.exact.metrics),
            self.precision: asdict(self.rooms.metrics),
        }
        return {**super().as_dict(), "rooms": rooms}


class GateRooms:
    """The rooms, rendered once, and what the float32 graphs say of them."""

    def __init__(self, exact: GraphFiles, height: int, width: int, tick: Callable[[float], None]) -> None:
        """Render them at the size of the graphs, in pixels; `tick` is told the share done."""
        rendered = RoomPairs(height, width, test=True)
        self._pairs: list[Pair] = []
        for index in range(ROOMS):
            self._pairs.append(rendered[index])
            tick((index + 1) / ROOMS / 2)
        self.exact = self.run(exact, lambda share: tick((1 + share) / 2))

    def run(self, files: GraphFiles, tick: Callable[[float], None]) -> RoomDepths:
        """Run a pair of graphs on ONNX Runtime; `tick` is told the share done."""
        predictor, done = _Predictor(files), iter(range(1, ROOMS + 1))
        evaluation = evaluate(
            predictor,
            _Listed(self._pairs),
            Settings(ks=(POINTS,), dense=False),
            watch=lambda _: tick(next(done) / ROOMS),
        )
        return RoomDepths(evaluation.by_k[str(POINTS)], np.concatenate(predictor.depths))


def measure_quantised(
    files: GraphFiles,
    rooms: GateRooms,
    reference: Reference,
    max_points: int,
    trained: bool,
    tick: Callable[[float], None],
) -> QuantisedResult:
    """Run 8-bit graphs on the rooms, and on the images of the gate as the other precisions.

    Args:
        files: the graphs.
        rooms: from the float32 graphs of the same bundle.
        reference: what the literal model says of the gate's images.
        max_points: the bundle's limit of points.
        trained: whether the weights are.
        tick: is told the share done.
    """
    runner = OnnxRuntimeRunner(files)
    found = []
    for batch in BATCHES:
        cache = runner.encode(reference.images[:batch])
        for points in point_counts(max_points):
            asked = reference.repeated(batch, points)
            found.append(compare({"runner": runner.name}, runner.decode(cache, asked.points), asked))
    said = rooms.run(files, tick)
    return QuantisedResult(files.precision, TOLERANCES[files.precision], tuple(found), rooms.exact, said, trained)


class _Predictor:
    """A pair of graphs as `spd.evaluation` asks it; it keeps what it said."""

    def __init__(self, files: GraphFiles) -> None:
        self._runner = OnnxRuntimeRunner(files)
        self._cache: Any = None
        self.depths: list[NDArray[np.float32]] = []

    def encode(self, image: NDArray[np.uint8], /) -> _Predictor:
        self._cache = self._runner.encode(image[None])
        return self

    def depth(self, points: NDArray[np.float64], /) -> NDArray[np.float32]:
        depth = self._runner.decode(self._cache, points[None].astype(np.float32))[0]
        self.depths.append(depth)
        return depth


@dataclass
class _Listed:
    """Pairs that are there already."""

    pairs: list[Pair]
    title: str = "rooms"
    description: str = ""
    rendered: bool = True

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Pair:
        return self.pairs[index]
