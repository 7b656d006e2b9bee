"""Policy files: both lists, files of earlier versions, and modules that only one form of the network has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from export_support import ATTO, HEIGHT, WIDTH

from export.graphs import GraphOptions, check_policy_fits, deployed
from export.policy import Policy, policy_document, read_policy
from export.quantise import float_modules
from spd.errors import ExportError
from spd.models import seeded

BOTH = Policy(("encoder.stages.0.blocks.1",), ("decoder.head.w_r1", "decoder.b2.layers.0.ffn.fc2"))
MODEL = seeded(ATTO)


def written(path: Path, **changed: Any) -> Path:
    document = {**policy_document(BOTH, precision="int8"), **changed}
    path.write_text(json.dumps({key: value for key, value in document.items() if value != "missing"}))
    return path


def test_both_lists_are_read_and_neither_is_quantised(tmp_path: Path) -> None:
    policy = read_policy(written(tmp_path / "policy.json"))
    assert policy == BOTH
    kept = float_modules(ATTO, policy)
    assert {*kept} == {*float_modules(ATTO, Policy()), *BOTH.float32_modules, *BOTH.unquantised_modules}


def test_a_file_of_the_first_version_quantises_all_but_what_is_float32(tmp_path: Path) -> None:
    first = written(tmp_path / "policy.json", format_version=1, unquantised_modules="missing")
    assert read_policy(first) == Policy(BOTH.float32_modules)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"unquantised_modules": "missing"}, "unquantised_modules is None, expected a list of module paths"),
        ({"unquantised_modules": [3]}, r"unquantised_modules is \[3\], expected a list"),
        ({"float32_modules": {}}, r"float32_modules is \{\}, expected a list"),
        ({"format_version": 3}, "format version 3, this spd-depth reads up to 2"),
    ],
)
def test_refused(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        read_policy(written(tmp_path / "policy.json", **changed))


def options(policy: Policy) -> GraphOptions:
    return GraphOptions(HEIGHT, WIDTH, policy=policy)


def test_a_module_of_either_form_is_known_and_no_other() -> None:
    """Queries, keys and values are one product for a GPU and three for a CPU."""
    attention = "encoder.l3_self_attn.layers.0"
    check_policy_fits(MODEL, options(Policy((f"{attention}.w_qkv",), (f"{attention}.w_k",))))
    for policy in (Policy(("encoder.stages.9",)), Policy((), ("encoder.stages.9",)), Policy(("decoder.head.w_r2",))):
        with pytest.raises(
            ExportError, match=r"such as (encoder\.stages\.9|decoder\.head\.w_r2); make a policy for it"
        ):
            check_policy_fits(MODEL, options(policy))


def test_a_form_without_the_module_is_as_without_the_policy() -> None:
    name = "l3_self_attn.layers.0.w_qkv"
    policy = options(Policy((f"encoder.{name}",)))
    gpu, _ = deployed(MODEL, torch.float16, policy)
    assert {parameter.dtype for parameter in gpu.get_submodule(name).parameters()} == {torch.float32}
    cpu, _ = deployed(MODEL, torch.float16, policy, for_gpu=False)
    assert {parameter.dtype for parameter in cpu.l3_self_attn.parameters()} == {torch.float16}
