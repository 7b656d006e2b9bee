"""Fixtures that put the stand-ins where `import tensorrt` and `import cuda.core` find them.

A test that takes `tensorrt_10`, `tensorrt_11` or `tensorrt_any` gets the `Machine` behind them: it plans faults,
counts, and lists violations. When the test ends, work that is still enqueued is run, and a violation fails the test
unless the test has cleared the list.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest

from stand_ins import install
from stand_ins.cuda_core import streams
from stand_ins.machine import Machine, switch_off
from stand_ins.timeline import ExecutionError
from stand_ins.trt_enums import RTX

VERSIONS = ("10.16.1.11", "11.4.0.106")
"""TensorRT 10 and 11, as far as their surfaces are recorded."""

OURS = ("spd", "export", "engines", "calib", "tools")


@pytest.fixture
def use_tensorrt(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Machine]]:
    """Install a version of TensorRT, and a machine for it; may be called again for another version."""
    machines: list[Machine] = []

    def use(version: str) -> Machine:
        _forget_users()
        machine = install(version, monkeypatch.setitem)
        # ONNX Runtime needs a real GPU: its module keeps the function that asks for one.
        importlib.import_module("spd.runtime.available")
        monkeypatch.setattr("spd.runtime.devices.cuda_missing", lambda: None)
        machines.append(machine)
        return machine

    yield use
    _forget_users()
    try:
        for machine in machines:
            _drain(machine)
            assert not machine.violations, machine.violations
    finally:
        switch_off()


@pytest.fixture
def tensorrt_10(use_tensorrt: Callable[[str], Machine]) -> Machine:
    """TensorRT 10."""
    return use_tensorrt(VERSIONS[0])


@pytest.fixture
def tensorrt_11(use_tensorrt: Callable[[str], Machine]) -> Machine:
    """TensorRT 11."""
    return use_tensorrt(VERSIONS[1])


@pytest.fixture(params=VERSIONS, ids=("tensorrt10", "tensorrt11"))
def tensorrt_any(request: pytest.FixtureRequest, use_tensorrt: Callable[[str], Machine]) -> Machine:
    """Each version in turn."""
    return use_tensorrt(request.param)


@pytest.fixture
def tensorrt_rtx(use_tensorrt: Callable[[str], Machine]) -> Machine:
    """TensorRT for RTX, on an RTX 4090; the enumerations are those of the installed package."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX has packages for Linux and Windows on x86-64 only")
    return use_tensorrt(RTX)


def _drain(machine: Machine) -> None:
    for stream in list(streams(machine).values()):
        try:
            stream._timeline.capture = None
            stream._timeline.run_until()
        except ExecutionError as error:
            machine.violate(str(error))


def _forget_users() -> None:
    """Let modules of ours that hold the real or another stand-in's modules or classes be imported again."""
    doomed: set[str] = set()
    while True:
        more = {
            name
            for name, module in list(sys.modules.items())
            if name.split(".")[0] in OURS and name not in doomed and _holds(module, doomed)
        }
        if not more:
            break
        doomed |= more
    for name in doomed:
        module = sys.modules.pop(name)
        parent, _, last = name.rpartition(".")
        if getattr(sys.modules.get(parent), last, None) is module:
            delattr(sys.modules[parent], last)


def _holds(module: ModuleType, doomed: set[str]) -> bool:
    for value in list(vars(module).values()):
        source = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
        if not isinstance(source, str):
            continue
        # A function of ours, as put in by monkeypatch above, is taken out again by monkeypatch.
        libraries = ("tensorrt", "tensorrt_rtx", "cuda")
        foreign = (*libraries, "stand_ins") if isinstance(value, ModuleType | type) else libraries
        if source in doomed or source.split(".")[0] in foreign:
            return True
    return False
