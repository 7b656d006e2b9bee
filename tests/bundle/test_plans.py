"""Which machine a plan fits, and that plans of earlier versions are read."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from spd.bundle.plans import PlanProfile, PlanRecord, RtxTarget, Target
from spd.errors import BackendError

PLAN = PlanRecord(
    "encoder",
    "fp16",
    "encoder.fp16.engine",
    Target("11.4.0.106", "13.0", "13.0", "NVIDIA H200", "9.0"),
    "none",
    (PlanProfile((1, 1, 8), None),),
    {"tf32": False},
)


RTX = replace(PLAN, file="encoder.fp16.rtx.engine", target=RtxTarget("1.7.1.116", ("8.6", "8.9")), proven=True)


@pytest.mark.parametrize("plan", [PLAN, RTX], ids=("tensorrt", "rtx"))
def test_what_is_written_is_read(plan: PlanRecord) -> None:
    assert PlanRecord.from_dict(json.loads(json.dumps(plan.as_dict()))) == plan


def test_what_earlier_versions_wrote_is_read() -> None:
    """They knew one library, and wrote what is proven among the options."""
    old = json.loads(json.dumps(PLAN.as_dict()))
    del old["flavour"], old["proven"]
    for verified in (True, False):
        plan = PlanRecord.from_dict({**old, "options": {"verified": verified}})
        assert (plan.flavour, plan.proven, plan.target) == ("tensorrt", verified, PLAN.target)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"flavour": "lean"}, "flavour 'lean'"),
        ({"proven": "yes"}, "proven is 'yes'"),
        ({"target": {"tensorrt_rtx": "1.7.1.116", "compute_capabilities": []}}, r"compute_capabilities is \[\]"),
        ({"target": {"tensorrt_rtx": "1.7.1.116", "compute_capabilities": [8.6]}}, r"compute_capabilities is \[8.6\]"),
        ({"target": {"tensorrt_rtx": "", "compute_capabilities": ["8.6"]}}, "tensorrt_rtx is ''"),
        ({"flavour": "tensorrt"}, "tensorrt is None"),
    ],
)
def test_impossible_records_are_refused(changed: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        PlanRecord.from_dict({**json.loads(json.dumps(RTX.as_dict())), **changed})


def test_a_plan_for_rtx_needs_its_exact_version_and_leaves_the_gpu_to_the_library() -> None:
    here = replace(PLAN.target, tensorrt="1.7.1.116", gpu="NVIDIA GeForce RTX 5090", compute_capability="12.0")
    RTX.check_fits(here, "make")
    with pytest.raises(BackendError, match=r"with TensorRT for RTX 1\.7\.1\.116, this is 1\.8\.0\.1; rebuild it: make"):
        RTX.check_fits(replace(here, tensorrt="1.8.0.1"), "make")


@pytest.mark.parametrize("version_compatible", [True, False])
def test_plans_of_earlier_versions_are_read(version_compatible: bool) -> None:
    """They may be version compatible, which is no longer asked for: such a plan needs its exact version."""
    built = json.loads(json.dumps(PLAN.as_dict()))
    assert built["version_compatible"] is False, "earlier versions read no plan without it"
    built["version_compatible"] = version_compatible
    plan = PlanRecord.from_dict(built)
    assert plan == PLAN
    with pytest.raises(BackendError, match=r"built with TensorRT 11\.4\.0\.106, this is 11\.4\.1\.0; rebuild it: make"):
        plan.check_fits(replace(PLAN.target, tensorrt="11.4.1.0"), "make")


@pytest.mark.parametrize(
    ("built", "here", "fits"),
    [
        ("13.0", "13.0", True),
        ("13.0", "13.2", True),
        ("12.9", "13.0", True),
        ("13.2", "13.10", True),
        ("13.2", "13.0", False),
        ("13.0", "12.9", False),
        ("13.10", "13.9", False),
    ],
)
def test_a_plan_needs_a_driver_no_older_than_the_one_it_was_built_with(built: str, here: str, fits: bool) -> None:
    plan = replace(PLAN, target=replace(PLAN.target, driver=built, cuda="13.2"))
    machine = replace(PLAN.target, driver=here)
    if fits:
        plan.check_fits(machine, "make")
        return
    message = f"built with a driver for CUDA {built}, the driver here is for CUDA {here}; update the driver, or rebuild"
    with pytest.raises(BackendError, match=message):
        plan.check_fits(machine, "make")
