"""What others take of the processor, by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bench_support import ABOUT, measured

import tools.bench.machine
from tools.bench.machine import OtherLoad
from tools.bench.run import Options, _notes_of_measured, notes


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float, float] | None]:
    """What is read from the system, one after another."""
    found: list[tuple[float, float, float] | None] = []
    left: Iterator[Any] = iter(found)
    monkeypatch.setattr(OtherLoad, "_times", lambda _self: next(left))
    monkeypatch.setattr(tools.bench.machine.os, "cpu_count", lambda: 2)
    return found


def test_the_share_of_others(readings: list[tuple[float, float, float] | None]) -> None:
    # In 10 seconds two cores were busy for 15 s, of which 8 s were ours; then for 4 s, all of them ours.
    readings += [(100.0, 50.0, 3.0), (110.0, 65.0, 11.0), (100.0, 50.0, 3.0), (110.0, 54.0, 7.5)]
    assert OtherLoad().share() == pytest.approx(0.35)
    assert OtherLoad().share() == 0, "clocks are coarse"


def test_where_it_is_not_known(readings: list[tuple[float, float, float] | None]) -> None:
    readings += [None, None]
    assert OtherLoad().share() is None


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="only Linux says it")
def test_clocks_go_forward() -> None:
    watch = OtherLoad()
    first = watch._times()
    sum(range(3_000_000))
    second = watch._times()
    assert first is not None
    assert second is not None
    assert second[0] > first[0]
    assert second[1] >= first[1] > first[2] > 0, "a machine was busy for longer than one of its processes"
    assert second[2] > first[2]


def options(**more: Any) -> Options:
    given = {"quick": False, "bundle": Path("engines/a"), **more}
    return Options("tiny", given["bundle"], (), (), 3, None, Path("cache"), given["quick"], "command")


def test_a_disturbed_run_says_so() -> None:
    quiet = {**ABOUT["machine"], "load_before": 0.2, "others": 0.01}
    assert notes(options(), quiet, None)[:-1] == ()
    (load,) = notes(options(), {**quiet, "load_before": 1.7}, None)[:-1]
    assert load.startswith("something else was running (load average 1.7 before the start)")
    (meanwhile,) = notes(options(), {**quiet, "others": 0.123}, None)[:-1]
    assert meanwhile == "something else took 12% of the processor meanwhile: do not use these numbers"
    unknown = {**quiet, "load_before": None, "others": None}
    assert notes(options(quick=True), unknown, None)[0].startswith("--quick, a first look")


def test_a_machine_that_drifts_and_networks_of_another_size() -> None:
    steady = measured("matmul/onnxruntime-cpu", [10.0, 10.5, 11.0])
    drifting = measured("matmul/onnxruntime-cpu", [10.0, 12.0, 14.0])
    dense = [measured(f"dav2s/{backend}", [1.0]) for backend in ("onnxruntime-cpu", "openvino")]
    same = [measured("yolo26n/openvino", [1.0]), measured("spd/openvino", [1.0])]
    assert _notes_of_measured([steady, *dense, *same]) == ["dav2s runs at 476x644 instead of 480x640"]
    (said,) = _notes_of_measured([drifting])
    # 13.6 over 10.4.
    assert said == "the speed of the machine changed by 31% at 480x640 (matmul/onnxruntime-cpu, p10 to p90)"
