"""What the run is asked to use, what `torchrun` and `fabric run` say, and what it was begun with."""

from __future__ import annotations

import logging
import os
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from lightning_fabric.utilities.exceptions import MisconfigurationException

from spd.errors import BackendError
from spd.training import machine as module
from spd.training.machine import Machine, default_workers, fabric_for, launch, precision_of


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> Any:
    """No GPU, bf16, and nothing in the environment."""
    for name in [*os.environ]:
        if name.startswith(("LT_", "TORCHELASTIC")) or name in ("LOCAL_RANK", "RANK", "WORLD_SIZE", "NODE_RANK"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def by_fabric_run(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets what `fabric run` sets; the other processes are not waited for."""
    monkeypatch.setattr(DDPStrategy, "setup_environment", lambda self: None)

    def told(**variables: str) -> None:
        for name, value in {"CLI_USED": "1", "DEVICES": "1", "NUM_NODES": "1", **variables}.items():
            monkeypatch.setenv(f"LT_{name}", value)

    return told


@pytest.fixture
def by_torchrun(monkeypatch: pytest.MonkeyPatch) -> Any:
    def told(local: int, nodes: int) -> None:
        values = {"TORCHELASTIC_RUN_ID": "none", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500", "GROUP_RANK": 0}
        values |= {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": local * nodes, "LOCAL_WORLD_SIZE": local}
        for name, value in {**values, "GROUP_WORLD_SIZE": nodes}.items():
            monkeypatch.setenv(name, str(value))

    return told


def found(fabric: Fabric) -> tuple[str, int, str]:
    return fabric.device.type, fabric.world_size, precision_of(fabric)


def test_one_process_in_bf16_on_a_cpu_that_has_it() -> None:
    assert found(fabric_for(Machine(), {})) == ("cpu", 1, "bf16")


def test_fp32_on_a_cpu_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"neon": True, "bf16": True})
    assert found(fabric_for(Machine(), {})) == ("cpu", 1, "fp32")


def test_what_is_asked_for() -> None:
    machine = Machine("cpu", 3, precision="fp32", threads=2)
    assert found(fabric_for(machine, {"processes": 2, "precision": "bf16"})) == ("cpu", 3, "fp32")
    assert torch.get_num_threads() == 2
    assert os.environ["OMP_NUM_THREADS"] == "2"
    assert found(fabric_for(Machine("cpu", 2, nodes=2), {})) == ("cpu", 4, "bf16")


def test_a_resumed_run_goes_on_as_it_was_begun() -> None:
    assert found(fabric_for(Machine(), {"processes": 2, "precision": "fp32"})) == ("cpu", 2, "fp32")
    assert found(fabric_for(Machine(nodes=2), {"processes": 4})) == ("cpu", 4, "bf16")


def test_under_torchrun(by_torchrun: Any) -> None:
    by_torchrun(local=2, nodes=3)
    assert found(fabric_for(Machine(), {})) == ("cpu", 6, "bf16")
    with pytest.raises(BackendError, match=r"does not match the world size \(6\)"):
        launch(fabric_for(Machine(devices=4), {}))


def test_under_fabric_run(by_fabric_run: Any) -> None:
    by_fabric_run(DEVICES="2", ACCELERATOR="cpu", PRECISION="32-true")
    fabric = fabric_for(Machine(), {"processes": 3, "precision": "bf16"})
    assert found(fabric) == ("cpu", 2, "fp32")
    launch(fabric)  # which Fabric refuses there
    assert found(fabric_for(Machine("cpu", 2, precision="fp32"), {})) == ("cpu", 2, "fp32")


def test_fabric_run_without_options_is_one_process(by_fabric_run: Any) -> None:
    by_fabric_run()
    assert found(fabric_for(Machine(), {})) == ("cpu", 1, "bf16")


@pytest.mark.parametrize("machine", [Machine(devices=3), Machine(precision="bf16")])
def test_a_contradiction_to_fabric_run(machine: Machine, by_fabric_run: Any) -> None:
    by_fabric_run(DEVICES="2", ACCELERATOR="cpu", PRECISION="32-true")
    with pytest.raises(BackendError, match=r"^cannot train on cpu: .* conflicts with the value .*$"):
        fabric_for(machine, {})


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"PRECISION": "bf16-true"}, "the precision bf16-true cannot train SPD; take 32-true or bf16-mixed"),
        ({"STRATEGY": "dp"}, "the strategy .* cannot train SPD; take ddp"),
        ({"ACCELERATOR": "cuda"}, "cannot train on cuda: .*not available"),
    ],
)
def test_what_cannot_train_or_resume(
    variables: dict[str, str], words: str, by_fabric_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "STRATEGY" in variables:  # only GPUs have another strategy without more processes

        class Other:
            precision = None

        monkeypatch.setattr(module, "Fabric", lambda **_: type("F", (), {"strategy": Other()}))
    by_fabric_run(**variables)
    with pytest.raises(BackendError, match=words) as caught:
        fabric_for(Machine(), {})
    assert "\n" not in str(caught.value)


def test_an_accelerator_that_is_not_there() -> None:
    with pytest.raises(BackendError, match=r"^cannot train on cuda: .*not available"):
        fabric_for(Machine("cuda"), {})


def test_gpus_are_taken_where_there_are_some(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def fake(**options: Any) -> Any:
        asked.update(options)
        raise RuntimeError("as far as a machine without a GPU goes")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    monkeypatch.setattr(module, "Fabric", fake)
    with pytest.raises(BackendError):
        fabric_for(Machine(), {})
    assert asked == {"accelerator": "cuda", "devices": "auto", "num_nodes": 1, "precision": "bf16-mixed"}


def test_more_gpus_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fabric says so with an exception of its own kind."""

    def fake(**_: Any) -> Any:
        raise MisconfigurationException("You requested gpu: [0, 1]\n But your machine only has: [0]")

    monkeypatch.setattr(module, "Fabric", fake)
    with pytest.raises(BackendError, match=r"^cannot train on cpu: You requested gpu: \[0, 1\] But .* has: \[0\]$"):
        fabric_for(Machine(devices=2), {})


def test_a_launch_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    fabric = fabric_for(Machine(), {})

    def fail() -> None:
        raise RuntimeError("no connection\nto the other machine")

    monkeypatch.setattr(fabric, "launch", fail)
    with pytest.raises(BackendError, match=r"^cannot train on cpu: no connection to the other machine$"):
        launch(fabric)


def test_fabric_keeps_its_announcements(monkeypatch: pytest.MonkeyPatch) -> None:
    announcer = logging.getLogger("lightning_fabric.utilities.rank_zero")
    logging.getLogger("lightning_fabric").setLevel(logging.INFO)
    assert announcer.isEnabledFor(logging.INFO)
    fabric_for(Machine(), {})
    assert not announcer.isEnabledFor(logging.INFO)
    assert announcer.isEnabledFor(logging.WARNING)


@pytest.mark.parametrize(("cores", "devices", "expected"), [(1, 1, 1), (4, 1, 3), (64, 1, 8), (16, 4, 3), (4, 4, 1)])
def test_workers(cores: int, devices: int, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    fabric = fabric_for(Machine(devices=devices), {})
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    assert default_workers(fabric) == expected


@pytest.mark.parametrize(
    ("cores", "devices", "threads", "variable"), [(3, 1, 3, None), (64, 1, 16, None), (6, 3, 2, "2"), (2, 3, 1, "1")]
)
def test_processes_share_the_cores_that_they_are_given(
    cores: int, devices: int, threads: int, variable: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a machine on which torch would take 16."""
    taken: list[int] = []
    monkeypatch.setenv("OMP_NUM_THREADS", "5")  # so that it is put back
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    monkeypatch.setattr(torch, "set_num_threads", taken.append)
    monkeypatch.setattr(module, "cores", lambda: cores)
    fabric_for(Machine(devices=devices), {})
    assert taken == [], "the user has said it"
    monkeypatch.delenv("OMP_NUM_THREADS")
    fabric_for(Machine(devices=devices), {})
    assert taken == [threads]
    assert os.environ.get("OMP_NUM_THREADS") == variable
