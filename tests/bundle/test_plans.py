"""Which machine a plan fits, and that plans of earlier versions are read."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from spd.bundle.plans import PlanProfile, PlanRecord, Target
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
