"""How long the kernels of a graph would take on some GPUs, from data sheets: predicted, not measured.

A kernel takes the longest of three times: a launch, its bytes at the bandwidth of the memory, and its
multiply-accumulates at the dense peak rate. Kernels run one after the other. Caches make it faster; rates that are not
reached make it slower. So it compares graphs and GPUs, and promises nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engines.layers import Layer
from engines.profile.tensorrt import Nodes

LAUNCH_SECONDS = 2e-6
"""Assumed: the least time from one kernel to the next that waits for it, in a CUDA graph."""


@dataclass(frozen=True)
class DataSheet:
    """What NVIDIA says of a GPU."""

    name: str
    compute_capability: str
    fp32_tflops: float
    """Rate of float32 arithmetic without tensor cores, 10^12 FLOP/s; 1 multiply-accumulate is 2 FLOP."""
    bandwidth_gb: float
    """Of its memory, 10^9 bytes/s."""

    @property
    def half_tflops(self) -> float:
        """Dense rate of products of float16 or bfloat16 that are summed in float32, 10^12 FLOP/s."""
        return 2 * self.fp32_tflops

    def seconds(self, layer: Layer, nbytes: int, macs: int) -> float:
        """Time of one kernel."""
        tflops = self.half_tflops if layer.dtypes & {"fp16", "bf16"} else self.fp32_tflops
        return max(LAUNCH_SECONDS, nbytes / (self.bandwidth_gb * 1e9), 2 * macs / (tflops * 1e12))


DATA_SHEETS = (
    DataSheet("RTX 3060", "8.6", 12.7, 360),
    DataSheet("RTX 4060", "8.9", 15.1, 272),
    DataSheet("RTX 4090", "8.9", 82.6, 1008),
    DataSheet("RTX 5070", "12.0", 30.9, 672),
    DataSheet("RTX 5090", "12.0", 104.8, 1792),
)
"""Desktop cards, from NVIDIA's GeForce specification pages: CUDA cores x 2 x boost clock, and memory bandwidth (3060:
that with 12 GB). In NVIDIA's white papers on Ampere (GA102), Ada and RTX Blackwell, GeForce cards multiply float16 and
bfloat16, summed in float32, at twice the float32 rate."""


def kernel_macs(kernels: Sequence[Layer], nodes: Nodes) -> tuple[int, ...]:
    """The multiply-accumulates of each kernel.

    A product that several kernels list counts for the first whose name or type says that it multiplies, else for the
    first: the others pad its operands or cut its result.

    Args:
        kernels: in TensorRT's order.
        nodes: of the exported graph.
    """
    owners: dict[str, int] = {}
    for multiplies in (True, False):
        for i, kernel in enumerate(kernels):
            if (kernel.named_kind is not None) is multiplies:
                for node in kernel.nodes:
                    owners.setdefault(node, i)
    macs = [0] * len(kernels)
    for node, i in owners.items():
        macs[i] += nodes[node][1] if node in nodes else 0
    return tuple(macs)
