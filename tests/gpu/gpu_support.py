"""What the tests of TensorRT on a real GPU share."""

from __future__ import annotations

import pytest

from spd.errors import BackendError
from spd.runtime.tensorrt.cuda import current_target


def reason() -> str | None:
    """Why there is nothing to test here."""
    try:
        current_target()
    except BackendError as error:
        return str(error)
    return None


REASON = reason()
NEEDS_GPU = [
    pytest.mark.skipif(REASON is not None, reason=f"TensorRT: {REASON}"),
    pytest.mark.timeout(1800),  # the first test builds six engines
]
RELATIVE = {"fp32": 1e-3, "fp16": 2e-2, "bf16": 5e-2}
"""The gate's tolerances; float32 kernels of a GPU add up in another order than those of the CPU."""
PRECISIONS = tuple(RELATIVE)
