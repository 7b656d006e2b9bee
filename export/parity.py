"""The parity gate: exported graphs against the literal torch model, before anything is published (design 3, 5)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from export.diagnosis import first_bad_tensor
from export.reference import LiteralReference
from export.runners import GraphFiles, OnnxRuntimeRunner, Runner, TorchRunner
from spd.bundle.comparison import Case, Comparison, compare
from spd.bundle.gate import IMAGES, TOLERANCES
from spd.bundle.reference import Reference
from spd.errors import ParityError
from spd.models import SPD

BATCHES = (1, 2)
POINT_COUNTS = (1, 2, 37, 256)
"""K of the cases, besides the bundle's maximum."""


@dataclass(frozen=True)
class ParityResult(Comparison):
    """What the gate measured for one precision; errors are relative to the literal model's depth."""

    equal_route_sets: float
    """Share of queries whose routed L4 positions are the literal model's, as sets."""
    shared_routes: float
    """Share of routed L4 positions that the literal model routes too."""
    undecided_points: int
    """Points whose routes float32 does not decide; their depth is not compared. `gate.npz` says which."""

    def as_dict(self) -> dict[str, Any]:
        """For `parity.json`."""
        routes = {"equal_route_sets": self.equal_route_sets, "shared_routes": self.shared_routes}
        return {**super().as_dict(), **routes, "undecided_points": self.undecided_points}


def point_counts(max_points: int) -> list[int]:
    """K of the cases of a bundle, rising."""
    return sorted({*(k for k in POINT_COUNTS if k <= max_points), max_points})


def verify(
    model: SPD, files: GraphFiles, reference: LiteralReference, max_points: int, tick: Callable[[float], None]
) -> ParityResult:
    """Run the graphs of one precision on every case and compare with the literal model; `tick` is told the share done.

    Raises:
        ParityError: an error is beyond the tolerance, or a tensor is not finite; names the worst point, the precision
            and the first tensor that went off.
    """
    counts = point_counts(max_points)
    precision = files.precision
    walker = TorchRunner(files)
    # ONNX Runtime's CPU provider has no bfloat16; there the walk does every case.
    plan: list[tuple[Runner, list[int]]] = [(walker, counts if precision == "bf16" else [min(256, max_points)])]
    if precision != "bf16":
        plan.append((OnnxRuntimeRunner(files), counts))
    cases: list[Case] = []
    steps = sum(len(BATCHES) * len(ks) for _, ks in plan)
    try:
        for runner, ks in plan:
            for batch in BATCHES:
                cache = runner.encode(reference.images[:batch])
                for k in ks:
                    tick(len(cases) / steps)
                    cases.append(_run_case(runner, cache, reference.repeated(batch, k)))
    except FloatingPointError as error:
        raise ParityError(
            f"{precision} graphs: {error}; check the weights of that module, or export without --precision {precision}"
        ) from error
    sets, shared = _route_shares(walker, reference)
    undecided = int(reference.undecided.sum())
    result = ParityResult(precision, TOLERANCES[precision], tuple(cases), sets, shared, undecided)
    if not result.passed:
        raise ParityError(_message(result, model, files, reference))
    return result


def _run_case(runner: Runner, cache: Any, asked: Reference) -> Case:
    batch, k = asked.depth.shape
    got = runner.decode(cache, asked.points)
    if got.shape != (batch, k):
        raise ParityError(f"{runner.name} gives depth of shape {got.shape} for B={batch} K={k}: expected {(batch, k)}")
    return compare({"runner": runner.name}, got, asked)


def _route_shares(walker: TorchRunner, reference: LiteralReference) -> tuple[float, float]:
    """Shares of equal route sets and of shared routes in the walk's last case, which has every image."""
    assert walker.routes is not None
    k = walker.routes.shape[1]
    expected = reference.routes[:, np.arange(k) % reference.routes.shape[1]]
    shared = (walker.routes[..., :, None] == expected[..., None, :]).any(axis=-1).mean(axis=-1)
    return float((shared == 1).mean()), float(shared.mean())


def _message(result: ParityResult, model: SPD, files: GraphFiles, reference: Reference) -> str:
    farthest, worst = result.farthest, result.farthest.worst
    culprit = first_bad_tensor(
        model,
        ir.load(files.encoder),
        ir.load(files.decoder),
        torch.from_numpy(reference.images[worst.image : worst.image + 1]),
        torch.tensor([[[worst.u, worst.v]]]),
        result.tolerance.max,
    )
    return (
        f"{result.precision} graphs do not compute what the model computes: {result.difference}; "
        f"worst point ({worst.u:g}, {worst.v:g}) of the {IMAGES[worst.image]} on {farthest.ran['runner']} at "
        f"B={farthest.batch} K={farthest.points}: {worst.got:.4g} m, expected {worst.expected:.4g} m; {culprit}; "
        "no bundle was written (--no-verify writes it all the same, marked as unverified)"
    )
