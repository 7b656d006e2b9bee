"""Predicted times, by hand for kernels of each kind."""

from __future__ import annotations

import pytest

from engines.kernels import Kernel
from engines.layers import Tensor
from engines.profile.predicted import DATA_SHEETS, LAUNCH_SECONDS, DataSheet, kernel_macs

SHEET = DataSheet("a card", "8.9", fp32_tflops=10, bandwidth_gb=500)


def kernel(dtype: str, *nodes: str, name: str = "__myl_Fc_myl0_0", layer_type: str = "kgen") -> Kernel:
    return Kernel(name, layer_type, "", nodes, (Tensor("x", (1,), dtype),), (), ())


@pytest.mark.parametrize(
    ("dtype", "nbytes", "macs", "seconds"),
    [
        ("Half", 100, 1000, LAUNCH_SECONDS),
        ("Half", 5_000_000, 1000, 1e-5),
        ("Half", 100, 10**9, 2e9 / 20e12),
        ("BFloat16", 100, 10**9, 2e9 / 20e12),
        ("Float", 100, 10**9, 2e9 / 10e12),
        ("Float", 500_000_000, 10**9, 1e-3),
    ],
)
def test_the_longest_of_three_counts(dtype: str, nbytes: int, macs: int, seconds: float) -> None:
    assert SHEET.seconds(kernel(dtype), nbytes, macs) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("name", "cores", "boost_ghz", "half_tflops"),
    [
        ("RTX 3060", 3584, 1.777, None),
        ("RTX 4060", 3072, 2.46, None),
        ("RTX 4090", 16384, 2.52, 165.2),
        ("RTX 5070", 6144, 2.512, 61.7),
        ("RTX 5090", 21760, 2.407, 209.5),
    ],
)
def test_data_sheets(name: str, cores: int, boost_ghz: float, half_tflops: float | None) -> None:
    sheet = next(sheet for sheet in DATA_SHEETS if sheet.name == name)
    assert sheet.fp32_tflops == pytest.approx(cores * 2 * boost_ghz / 1000, rel=0.005)
    if half_tflops is not None:
        assert sheet.half_tflops == pytest.approx(half_tflops, rel=0.005), "as the white paper has it"


def test_a_product_counts_once_for_the_kernel_that_multiplies() -> None:
    nodes = {"a/MatMul": ("B1", 7), "b/MatMul": ("B1", 11), "c/MatMul": ("B1", 13), "b/Add": ("B1", 0)}
    kernels = [
        kernel("Half", "a/MatMul", name="__myl_MoveConc_myl0_0"),
        kernel("Half", "a/MatMul", "unknown/MatMul", name="x", layer_type="gemm"),
        kernel("Half", "b/MatMul", "b/Add"),
        kernel("Half", "c/MatMul", name="__myl_SlicMulAdd_myl0_3"),
        kernel("Half", "b/MatMul", "c/MatMul", name="__myl_Slic_myl0_4"),
    ]
    assert kernel_macs(kernels, nodes) == (0, 7, 11, 13, 0)
