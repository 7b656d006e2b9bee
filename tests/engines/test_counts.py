"""8 bits beside float16 by counts: what is compared, and what follows."""

from __future__ import annotations

from typing import Any

import pytest

from engines.counts import Counts, compare_builds, counts_line
from engines.rtx import FP8_ADVICE, check_fp8
from spd.errors import BackendError


@pytest.mark.parametrize(
    ("encoder", "decoder", "verdict"),
    [
        ((173, 52_800_000), (109, 54_900_000), "by these counts fp16 is not slower"),
        ((151, 40_000_000), (98, 50_000_000), "by these counts fp8 is not slower"),
        ((151, 60_000_000), (98, 50_000_000), "only runs on the GPU tell"),
    ],
)
def test_the_verdict(encoder: tuple[int, int], decoder: tuple[int, int], verdict: str) -> None:
    eight = [Counts("encoder", *encoder), Counts("decoder", *decoder)]
    sixteen = [Counts("encoder", 161, 51_600_000), Counts("decoder", 102, 52_100_000)]
    line = counts_line("fp8", eight, sixteen)
    assert verdict in line
    assert f"encoder {encoder[0]} kernels, {encoder[1] / 1e6:.1f} MB against 161 kernels, 51.6 MB" in line
    assert "counted and not timed" in line


def entry(capability: str, *decoder_points: int) -> dict[str, Any]:
    encoder = {"batch": [1, 1, 1], "points": None, "kernels": 9, "moved_bytes": 4_000_000}
    many = {"batch": [1, 1, 8], "points": None, "kernels": 9}
    decoder = [{"batch": [1, 1, 1], "points": [k] * 3, "kernels": 7, "moved_bytes": k * 1000} for k in decoder_points]
    return {
        "target": {"compute_capabilities": [capability]},
        "encoder": {"profiles": [encoder, many]},
        "decoder": {"profiles": decoder},
    }


def test_builds_are_compared_profile_by_profile() -> None:
    report = {"fp16": entry("8.9", 64, 256), "fp8": entry("8.9", 256)}
    line = compare_builds(report, "fp8")
    assert line is not None
    assert "decoder at K = 256 7 kernels, 0.3 MB" in line
    assert "K = 64" not in line
    assert compare_builds(report, "fp16") is None
    assert compare_builds({"fp8": entry("8.9", 64)}, "fp8") is None
    assert compare_builds({**report, "fp16": entry("12.0", 256)}, "fp8") is None


def test_fp8_needs_gpus_that_have_it() -> None:
    check_fp8(("fp16", "fp8"), ("8.9", "9.0", "12.0"), "")
    check_fp8(("fp16", "int8-fp16"), ("8.0", "8.6"), "")
    with pytest.raises(BackendError, match=r"^fp8 needs compute capability 8\.9 or later, not 8\.0, 8\.6; --compute"):
        check_fp8(("fp8",), ("8.0", "8.6", "8.9"), FP8_ADVICE)
