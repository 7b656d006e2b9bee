"""The choice: with made-up measurements for every rule of it, on real ones in test_spd_calibrate.py."""

from __future__ import annotations

import io
from collections.abc import Collection
from typing import Any

import pytest
from calib_support import OPTIONS
from rich.console import Console

from calib import choose
from calib.choose import Calibration, Settings, calibrate
from calib.lowering import DepthError
from calib.ranges import Ranges, TensorRange
from spd.commands.progress import Phases

UNITS = ("encoder.a", "encoder.b", "decoder.c")
INSIDE = {"encoder.a": ["encoder.a.small", "encoder.a.large"], "encoder.b": [], "decoder.c": ["decoder.c.only"]}

NOTHING, DEFAULT = Ranges((), {}), Settings()


class Measured:
    """A network whose modules each add their own error, unless kept; a `culprit` inside makes its unit's error."""

    units = UNITS
    lowerable = (*UNITS, *(inner for paths in INSIDE.values() for inner in paths))

    def __init__(self, errors: dict[str, float], culprits: dict[str, str]) -> None:
        self.errors, self.culprits = errors, culprits
        self.runs: list[tuple[str, ...]] = []

    def inside(self, unit: str) -> list[str]:
        return INSIDE[unit]

    def alone(self, unit: str, kept: Collection[str], most: int) -> DepthError:
        assert most >= 1
        error = 0.0 if unit in kept or self.culprits.get(unit) in kept else self.errors.get(unit, 0.0)
        return DepthError(error, error / 100)

    def each_alone(self, kept: Collection[str], most: int, tick: Any) -> dict[str, DepthError]:
        return {unit: self.alone(unit, kept, most) for unit in self.units if unit not in kept}

    def whole(self, kept: Collection[str], tick: Any) -> DepthError:
        self.runs.append(tuple(kept))
        error = sum(self.alone(unit, kept, 1).max for unit in self.units)
        return DepthError(error, error / 100)


def choice(
    monkeypatch: pytest.MonkeyPatch,
    errors: dict[str, float],
    culprits: dict[str, str] | None = None,
    ranges: Ranges = NOTHING,
    settings: Settings = DEFAULT,
) -> tuple[Calibration, Measured]:
    measured = Measured(errors, culprits or {})
    monkeypatch.setattr(choose, "Lowering", lambda *_: measured)
    monkeypatch.setattr(choose, "measure_ranges", lambda *_, **__: ranges)
    phases = Phases(Console(file=io.StringIO()))
    sample: Any = object()
    photos: Any = None
    return calibrate(None, OPTIONS, photos, [sample], settings, phases), measured  # type: ignore[arg-type]


def tensor(module: str, largest: float) -> TensorRange:
    return TensorRange(module, "Mul", largest=largest)


def test_nothing_is_kept_without_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    found, measured = choice(monkeypatch, {"encoder.a": 0.009, "encoder.b": 0.009})
    assert found.kept == {}
    assert found.result == found.without
    assert found.result.max == pytest.approx(0.018)
    assert measured.runs == [()], "the same run twice"


def test_the_smallest_module_that_cures_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = choice(monkeypatch, {"encoder.a": 0.05}, {"encoder.a": "encoder.a.large"})
    assert list(found.kept) == ["encoder.a.large"]
    assert "0.05" in found.kept["encoder.a.large"]
    assert found.result.max == 0


def test_a_unit_is_kept_if_nothing_inside_cures(monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = choice(monkeypatch, {"encoder.a": 0.05, "encoder.b": float("inf")})
    assert set(found.kept) == {"encoder.a", "encoder.b"}
    assert found.without.max == float("inf")
    assert found.result.max == 0


def test_many_small_errors_are_cured_by_the_worst_first(monkeypatch: pytest.MonkeyPatch) -> None:
    found, measured = choice(monkeypatch, {"encoder.a": 0.008, "encoder.b": 0.0099, "decoder.c": 0.0095})
    assert list(found.kept) == ["encoder.b"]
    assert found.result.max == pytest.approx(0.0175)
    assert measured.runs == [(), ("encoder.b",)]


def test_the_search_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Measured, "whole", lambda *_: DepthError(1.0, 1.0))
    found, _ = choice(monkeypatch, {"encoder.a": 0.008})
    assert len(found.kept) == len(UNITS)
    assert found.result == DepthError(1.0, 1.0)
    monkeypatch.setattr(choose, "ROUNDS", 1)
    found, _ = choice(monkeypatch, {"encoder.a": 0.008})
    assert len(found.kept) == 1


def test_what_overflows_stays_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    ranges = Ranges(
        (tensor("encoder.a.small", 7e4), tensor("encoder.a", 2e4), tensor("decoder.c.only", 1e4)),
        {"encoder.a": 5.0, "encoder.a.small": 7e4, "decoder.c": 1.0, "decoder.c.only": 1.0},
    )
    found, _ = choice(monkeypatch, {}, ranges=ranges)
    assert found.kept == {"encoder.a": "encoder.a.small/Mul reaches 7e+04"}
    assert found.uncured == ()
    # Less headroom, and only what really overflows counts; more, and the decoder's tensor does too.
    found, _ = choice(monkeypatch, {}, ranges=ranges, settings=Settings(headroom=8))
    assert list(found.kept) == ["encoder.a", "decoder.c.only"]
    found, _ = choice(monkeypatch, {}, ranges=ranges, settings=Settings(headroom=0.9))
    assert found.kept == {}
    # bfloat16 holds all that.
    found, _ = choice(monkeypatch, {}, ranges=ranges, settings=Settings("bf16", headroom=8))
    assert found.kept == {}


def test_a_module_inside_a_kept_one_is_not_named(monkeypatch: pytest.MonkeyPatch) -> None:
    ranges = Ranges(
        (tensor("encoder.a.small", 9e4), tensor("encoder.a", 8e4)), {"encoder.a": 5.0, "encoder.a.small": 5.0}
    )
    found, _ = choice(monkeypatch, {}, ranges=ranges)
    assert list(found.kept) == ["encoder.a"]


def test_what_flows_between_modules_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    ranges = Ranges((tensor("encoder.a", 9e4),), {"encoder.a": 9e4})
    found, _ = choice(monkeypatch, {}, ranges=ranges)
    assert found.kept == {}
    assert found.uncured == ("encoder.a/Mul reaches 9e+04",)


def test_the_mean_error_of_one_module_is_the_same_share(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings("bf16", max_error=0.0125)
    assert settings.module_tolerance.mean == pytest.approx(settings.tolerance.mean / 4)
    assert settings.limit == pytest.approx(3.3895e38 / 4, rel=1e-4)
    found, _ = choice(monkeypatch, {"encoder.a": 0.0126}, settings=settings)
    assert list(found.kept) == ["encoder.a"]
