"""The rows of the benchmark: which network on which runtime, and whether that can run here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.util import find_spec

from spd.errors import InputError

NETWORKS = {
    "spd": "SPD as deployed",
    "literal": "SPD as written",
    "dav2s": "Depth Anything V2 Small",
    "matmul": "matrix product",
}
"""Networks, and what they are for people."""

SPARSE = ("spd", "literal")
"""Networks that encode an image once and then answer points."""


@dataclass(frozen=True)
class Row:
    """A network on a runtime."""

    network: str
    """One of `NETWORKS`."""
    backend: str
    """The runtime, and the device if it has several."""

    def __str__(self) -> str:
        return f"{self.network}/{self.backend}"

    @property
    def on_gpu(self) -> bool:
        """Whether it computes on the GPU."""
        return self.backend == "tensorrt" or self.backend.endswith("-cuda")

    @property
    def limit(self) -> Row:
        """The row that says how fast its device multiplies matrices."""
        return Row("matmul", "onnxruntime-cuda" if self.on_gpu else "onnxruntime-cpu")


ROWS = (
    Row("spd", "onnxruntime-cpu"),
    Row("spd", "onnxruntime-cuda"),
    Row("spd", "tensorrt"),
    Row("spd", "openvino"),
    Row("literal", "onnxruntime-cpu"),
    Row("literal", "torch"),
    Row("literal", "torch-compile"),
    Row("literal", "torch-cuda"),
    Row("literal", "torch-compile-cuda"),
    Row("dav2s", "onnxruntime-cpu"),
    Row("dav2s", "onnxruntime-cuda"),
    Row("dav2s", "openvino"),
)
"""What is compared. The machine's limits, `Row.limit`, are measured with it."""

SLOW = ("literal/torch*",)
"""Rows that --quick leaves out: torch takes minutes to compile, and seconds to import."""

_PACKAGES = {
    "literal": ("torch", "timm", "onnx", "onnxscript"),
    "dav2s": ("torch", "transformers", "onnx", "onnxscript"),
}


def matching(patterns: Sequence[str]) -> list[Row]:
    """The rows that any of the patterns names, in the order of `ROWS`; all of them without patterns.

    Args:
        patterns: with `*` and `?` as in file names, matched against `network/backend`; a part of it is enough.

    Raises:
        InputError: a pattern names none.
    """
    for pattern in patterns:
        if not any(_matches(row, pattern) for row in ROWS):
            raise InputError(f"--rows {pattern!r} names no row; expected some of: {', '.join(map(str, ROWS))}")
    return [row for row in ROWS if not patterns or any(_matches(row, pattern) for pattern in patterns)]


def _matches(row: Row, pattern: str) -> bool:
    return fnmatchcase(str(row), f"*{pattern}*" if "/" not in pattern else pattern)


def left_out_by_quick(row: Row) -> bool:
    """Whether --quick does without a row."""
    return any(_matches(row, pattern) for pattern in SLOW)


def unavailable(row: Row) -> str | None:
    """Why a row cannot run on this machine, or None. Packages are looked for, not imported."""
    from spd.runtime.available import unavailable as backend_unavailable  # for --help
    from spd.runtime.devices import cuda_missing

    missing = [package for package in _PACKAGES.get(row.network, ()) if find_spec(package) is None]
    if missing:
        return f"{', '.join(missing)} missing: pip install 'spd-depth[export,train]'"
    if row.backend == "openvino":
        return None if find_spec("openvino") else "openvino is missing: pip install 'spd-depth[tools]'"
    if row.backend.startswith("torch"):
        return cuda_missing() if row.on_gpu else None
    return backend_unavailable(row.backend)
