"""How many cores a process may use: its CPU mask, and the time that control groups grant it."""

from __future__ import annotations

import math
import os
from pathlib import Path

import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

import spd
from spd.runtime import machine
from spd.runtime.machine import cores, cpu_quota

V1, V1_OTHER, V2 = "4:cpu,cpuacct:{}", "7:memory:{}", "0::{}"


def tree(root: Path, groups: str, limits: dict[str, str | tuple[str, str]]) -> Path:
    """Files as Linux has them: `cpu.max` where the limit is one text, the two of version 1 where it is a pair."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups + "\n")
    for group, limit in limits.items():
        folder = root / "sys/fs/cgroup" / group
        folder.mkdir(parents=True, exist_ok=True)
        if isinstance(limit, str):
            (folder / "cpu.max").write_text(limit + "\n")
        else:
            for name, value in zip(("quota", "period"), limit, strict=True):
                (folder / f"cpu.cfs_{name}_us").write_text(value + "\n")
    return root


NONE = math.inf
CASES: dict[str, tuple[str, dict[str, str | tuple[str, str]], float]] = {
    "v2, in its own namespace": (V2.format("/"), {"": "150000 100000"}, 1.5),
    "v2, max": (V2.format("/a/b"), {"a/b": "max 100000", "a": "max 100000"}, NONE),
    "v2, the group around it": (V2.format("/a/b"), {"a/b": "400000 100000", "a": "200000 100000"}, 2),
    "v2, its own group": (V2.format("/a/b"), {"a/b": "50000 100000", "a": "200000 100000", "": "max 100000"}, 0.5),
    "v2, a group beside it": (V2.format("/a/b"), {"a/c": "50000 100000"}, NONE),
    "v2, above the namespace": (V2.format("/../../a"), {"a": "300000 100000"}, 3),
    "v2, another period": (V2.format("/a"), {"a": "30000 10000"}, 3),
    "v1": (V1.format("/a"), {"cpu,cpuacct/a": ("250000", "100000")}, 2.5),
    "v1, none": (V1.format("/a"), {"cpu,cpuacct/a": ("-1", "100000"), "cpu,cpuacct": ("-1", "100000")}, NONE),
    "v1, the container's mount": (V1.format("/docker/0a1b"), {"cpu": ("200000", "100000")}, 2),
    "v1, nested": (V1.format("/a/b"), {"cpu/a": ("100000", "100000"), "cpu/a/b": ("300000", "100000")}, 1),
    "v1, another controller": (V1_OTHER.format("/a"), {"memory/a": ("100000", "100000")}, NONE),
    "hybrid, v1 limits": (
        f"{V1.format('/a')}\n{V2.format('/a')}",
        {"cpu,cpuacct/a": ("200000", "100000"), "unified/a": "max 100000"},
        2,
    ),
    "hybrid, v2 limits": (
        f"{V1.format('/a')}\n{V2.format('/a')}",
        {"cpu,cpuacct/a": ("-1", "100000"), "unified/a": "100000 100000"},
        1,
    ),
    "a group with colons": (V2.format("/a:b"), {"a:b": "100000 100000"}, 1),
    "garbled": (V2.format("/a"), {"a": "lots", "": "200000 100000"}, 2),
    "period 0": (V1.format("/a"), {"cpu/a": ("100000", "0")}, NONE),
}


@pytest.mark.parametrize(("groups", "limits", "expected"), CASES.values(), ids=CASES)
def test_quotas(tmp_path: Path, groups: str, limits: dict[str, str | tuple[str, str]], expected: float) -> None:
    assert cpu_quota(tree(tmp_path, groups, limits)) == expected


def test_no_control_groups(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) == NONE


@pytest.mark.parametrize("line", ["", "0:", "nonsense", "::"])
def test_a_line_of_another_kind(tmp_path: Path, line: str) -> None:
    root = tree(tmp_path, f"{line}\n{V2.format('/')}", {"": "100000 100000"})
    assert cpu_quota(root) == 1


@given(mask=st.integers(1, 300), quota=st.one_of(st.just(NONE), st.floats(0.01, 500)))
def test_cores_are_whole_and_no_more_than_the_mask(mask: int, quota: float) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "sched_getaffinity", lambda _: set(range(mask)), raising=False)
        patch.setattr(machine, "cpu_quota", lambda: quota)
        assert cores() == (mask if quota >= mask else max(1, math.ceil(quota)))


def test_a_count_that_python_was_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """PYTHON_CPU_COUNT, from Python 3.13 on."""
    monkeypatch.setattr(os, "process_cpu_count", lambda: 1, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    assert cores() == 1


@pytest.mark.parametrize(("granted", "expected"), [(3, (3, 1)), (1, (1, 1))])
def test_onnxruntime_is_told(
    exported: Path, monkeypatch: pytest.MonkeyPatch, granted: int, expected: tuple[int, int]
) -> None:
    """It would count the machine's cores by itself."""
    told, real = [], onnxruntime.InferenceSession

    def session(path: str, options: onnxruntime.SessionOptions, **others: object) -> object:
        told.append(options.intra_op_num_threads)
        return real(path, options, **others)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr("spd.runtime.onnx_runtime.cores", lambda: granted)
    with spd.load(exported, "onnxruntime-cpu"):
        assert tuple(told) == expected
