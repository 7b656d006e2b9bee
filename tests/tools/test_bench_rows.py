"""Which rows there are, can run here, and take turns in which order."""

from __future__ import annotations

import importlib.util
import time
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from bench_support import make_peaks, some_inputs

import tools.bench.measure
import tools.bench.rows
from spd.errors import InputError
from tools.bench.measure import Candidate, measure
from tools.bench.rows import ROWS, Row, left_out_by_quick, matching, unavailable
from tools.bench.subject import ENCODE, TURN_SECONDS, WARM_UP, Subject, peak_mb
from tools.bench.worker import Worker, WorkerError


@pytest.mark.parametrize(
    ("patterns", "count"),
    [
        ((), 27),
        (("spd/*",), 8),
        (("spd/openvino",), 1),
        (("openvino",), 13),
        ((":int8-bf16",), 1),
        (("dav2s", "spd/openvino*"), 9),
        (("yolo26?/openvino:bf16",), 3),
        (("literal/torch*",), 4),
    ],
)
def test_patterns(patterns: tuple[str, ...], count: int) -> None:
    found = matching(patterns)
    assert len(found) == len(set(found)) == count
    assert found == [row for row in ROWS if row in found], "in the order of the table"


def test_a_pattern_that_names_nothing() -> None:
    with pytest.raises(InputError, match=r"^--rows 'spd/onx' names no row; expected some of: spd/onnxruntime-cpu, "):
        matching(("spd/*", "spd/onx"))


def test_quick_leaves_out_torch_8_bits_and_most_of_yolo() -> None:
    assert {str(row) for row in ROWS if not left_out_by_quick(row) and not row.on_gpu} == {
        "spd/onnxruntime-cpu", "spd/openvino", "spd/openvino:bf16", "literal/onnxruntime-cpu", "dav2s/onnxruntime-cpu",
        "dav2s/openvino", "dav2s/openvino:bf16", "yolo26n/onnxruntime-cpu", "yolo26n/openvino", "yolo26n/openvino:bf16",
    }  # fmt: skip


def test_a_backend_has_a_precision() -> None:
    row = Row("spd", "openvino:int8-bf16")
    assert (str(row), row.runtime, row.precision) == ("spd/openvino:int8-bf16", "openvino", "int8-bf16")
    assert row.eight_bits
    assert not row.on_gpu
    assert (Row("spd", "tensorrt").precision, Row("spd", "tensorrt").on_gpu) == ("fp32", True)


@pytest.mark.parametrize(
    ("installed", "reason"),
    [
        (None, "needs ultralytics 8.4.190 or later, which you install yourself (it is under the AGPL-3.0): "
               "pip install ultralytics"),
        ("8.4.99", "needs ultralytics 8.4.190 or later, which you install yourself (it is under the AGPL-3.0); "
                   "found 8.4.99"),
        ("8.4.190", None), ("8.10.0", None), ("9.0.0rc1", None),
    ],
)  # fmt: skip
def test_yolo_needs_what_the_user_installs(
    monkeypatch: pytest.MonkeyPatch, installed: str | None, reason: str | None
) -> None:
    def version(name: str) -> str:
        if installed is None:
            raise PackageNotFoundError(name)
        return installed

    monkeypatch.setattr(tools.bench.rows, "version", version)
    assert unavailable(Row("yolo26n", "onnxruntime-cpu")) == reason


def test_what_is_not_installed_is_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    absent = ("openvino", "transformers", "timm")
    monkeypatch.setattr(tools.bench.rows, "find_spec", lambda name: None if name in absent else real(name))
    assert unavailable(Row("spd", "openvino")) == "openvino is missing: pip install 'spd-depth[tools]'"
    reason = unavailable(Row("dav2s", "onnxruntime-cpu"))
    assert reason == "transformers missing: pip install 'spd-depth[export,train]'"
    assert unavailable(Row("literal", "torch")) == "timm missing: pip install 'spd-depth[export,train]'"
    assert unavailable(Row("spd", "onnxruntime-cpu")) is None


def test_what_needs_a_gpu_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spd.runtime.devices.cuda_missing", lambda: "no NVIDIA driver")
    assert unavailable(Row("literal", "torch-cuda")) == "no NVIDIA driver"


class Recorded:
    """A worker that is told when to fail, and notes who is asked what."""

    log: ClassVar[list[tuple[str, str, Any]]] = []
    failing: tuple[str, str, Any] | None = None

    def __init__(self, _make: Any, name: str) -> None:
        self.name = name

    def made(self) -> None:
        self._note("made", None)

    def call(self, method: str, *args: int) -> float:
        self._note(method, args[0] if args else None)
        return float(len(self.log))

    def close(self) -> None: ...

    def __enter__(self) -> Recorded:
        return self

    def __exit__(self, *_: object) -> None: ...

    def _note(self, method: str, what: Any) -> None:
        self.log.append((self.name, method, what))
        if self.log[-1] == self.failing:
            raise WorkerError("it broke")


@pytest.fixture
def candidates(monkeypatch: pytest.MonkeyPatch) -> list[Candidate]:
    monkeypatch.setattr(tools.bench.measure, "Worker", Recorded)
    monkeypatch.setattr(tools.bench.measure, "SETTLE_SECONDS", 0)
    monkeypatch.setattr(Recorded, "log", [])
    monkeypatch.setattr(Recorded, "failing", None)
    works = {"a": (ENCODE, 1), "b": (ENCODE,), "c": (ENCODE, 1)}
    return [Candidate(Row("spd", name), 160, 192, works[name], {}, Subject, (name,)) for name in works]


def test_rows_take_turns_forth_and_back(candidates: list[Candidate]) -> None:
    done, skipped = measure(candidates, 2, lambda _: None)
    turns = [f"{name}{work}" for name, method, work in Recorded.log if method == "turn"]
    assert turns == ["a0", "b0", "c0", "a1", "c1", "c0", "b0", "a0", "c1", "a1"]
    assert not skipped
    assert [len(one.turns[ENCODE]) for one in done] == [2, 2, 2]
    prepared = [work for name, method, work in Recorded.log if (name, method) == ("a", "prepare")]
    assert prepared == [0, 1], "in ascending order, as peak memory only ever grows"


@pytest.mark.parametrize("failing", [("b", "made", None), ("b", "prepare", 0), ("b", "turn", 0)])
def test_a_row_that_fails_is_listed_and_the_others_go_on(
    candidates: list[Candidate], monkeypatch: pytest.MonkeyPatch, failing: tuple[str, str, Any]
) -> None:
    monkeypatch.setattr(Recorded, "failing", failing)
    done, (skipped,) = measure(candidates, 3, lambda _: None)
    assert (skipped.row, skipped.size, skipped.reason) == ("spd/b", "160x192", "it broke")
    assert [one.row.backend for one in done] == ["a", "c"]
    assert all(len(times) == 3 for one in done for times in one.turns.values())


class Sleeper(Subject):
    def __init__(self, seconds: float) -> None:
        self.seconds, self.calls = seconds, 0

    def encode(self) -> None:
        self.calls += 1
        time.sleep(self.seconds * (10 if self.calls == 1 else 1))


def test_a_turn_of_short_calls_drops_the_first() -> None:
    sleeper = Sleeper(0.004)
    ms = sleeper.turn(ENCODE)
    assert 4 <= ms < 30, "the first took 40"
    assert sleeper.calls >= 3


def test_a_turn_of_long_calls_is_the_second() -> None:
    sleeper = Sleeper(TURN_SECONDS * 1.1)
    ms = sleeper.turn(ENCODE)
    assert TURN_SECONDS * 1.1e3 <= ms < TURN_SECONDS * 5e3, "the first took 11 times TURN_SECONDS"
    assert sleeper.calls == 2


def test_peak_memory_is_the_workers_own_and_remembers_what_is_gone(tmp_path: Path) -> None:
    taken = np.ones(round(200e6), np.uint8)  # here, so that it must not count there
    with Worker(make_peaks, tmp_path) as worker:
        peaks = worker.made()
    assert peaks["before"] < 150 < taken.nbytes / 1e6
    assert 60 < peaks["during"] - peaks["before"] < 80
    assert peaks["after"] == pytest.approx(peaks["during"], abs=1)


def test_prepare_warms_up_and_tells_the_peak() -> None:
    sleeper = Sleeper(0)
    assert sleeper.prepare(ENCODE) == pytest.approx(peak_mb(), abs=1)
    assert sleeper.calls == WARM_UP


def test_the_first_points() -> None:
    inputs = some_inputs()
    assert inputs.first(3).shape == (1, 3, 2)
    assert inputs.first(3).flags.c_contiguous
