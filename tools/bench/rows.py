"""The rows of the benchmark: which network on which runtime in which precision, and whether that can run here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from spd.errors import InputError
from spd.extras import pip_install

NETWORKS = {
    "spd": "SPD as deployed",
    "literal": "SPD as written",
    "dav2s": "Depth Anything V2 Small",
    "yolo26n": "YOLO26n-depth",
    "yolo26s": "YOLO26s-depth",
    "yolo26m": "YOLO26m-depth",
    "matmul": "matrix product",
}
"""Networks, and what they are for people."""

SPARSE = ("spd", "literal")
"""Networks that encode an image once and then answer points. The others are dense, but for `matmul`."""


@dataclass(frozen=True)
class Row:
    """A network on a runtime."""

    network: str
    """One of `NETWORKS`."""
    backend: str
    """The runtime, the device if it has several, and the precision if it is not float32, such as `openvino:int8`."""

    def __str__(self) -> str:
        return f"{self.network}/{self.backend}"

    @property
    def runtime(self) -> str:
        """The backend without its precision."""
        return self.backend.partition(":")[0]

    @property
    def precision(self) -> str:
        """fp32, bf16, int8 or int8-bf16; on a GPU SPD is run in fp16 instead of fp32 if the bundle has that."""
        return self.backend.partition(":")[2] or "fp32"

    @property
    def eight_bits(self) -> bool:
        """Whether it needs a graph with 8-bit products."""
        return self.precision.startswith("int8")

    @property
    def on_gpu(self) -> bool:
        """Whether it computes on the GPU."""
        return self.runtime == "tensorrt" or self.runtime.endswith("-cuda")

    @property
    def limit(self) -> Row:
        """The row that says how fast its device multiplies matrices."""
        return Row("matmul", "onnxruntime-cuda" if self.on_gpu else "onnxruntime-cpu")


_BACKENDS = {
    "spd": (
        "onnxruntime-cpu", "onnxruntime-cpu:int8", "openvino", "openvino:bf16", "openvino:int8", "openvino:int8-bf16",
        "onnxruntime-cuda", "tensorrt",
    ),
    "literal": ("onnxruntime-cpu", "torch", "torch-compile", "torch-cuda", "torch-compile-cuda"),
    "dav2s": ("onnxruntime-cpu", "openvino", "openvino:bf16", "openvino:int8", "onnxruntime-cuda"),
    **{f"yolo26{scale}": ("onnxruntime-cpu", "openvino", "openvino:bf16") for scale in "nsm"},
}  # fmt: skip

ROWS = tuple(Row(network, backend) for network, backends in _BACKENDS.items() for backend in backends)
"""What is compared. The machine's limits, `Row.limit`, are measured with it."""

SLOW = ("literal/torch*", "*:int8*", "yolo26[sm]/*")
"""Rows that --quick leaves out: torch takes minutes to compile, and 8-bit graphs to calibrate."""

_PACKAGES = {
    "literal": ("torch", "timm", "onnx", "onnxscript"),
    "dav2s": ("torch", "transformers", "onnx", "onnxscript"),
    **{f"yolo26{scale}": ("torch", "onnx", "onnxscript") for scale in "nsm"},
}

ULTRALYTICS = "8.4.190"
"""The oldest release of ultralytics with YOLO26-depth. It is under the AGPL, so that no extra of ours brings it."""


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

    if row.network.startswith("yolo") and (reason := _ultralytics_unavailable()):
        return reason
    missing = [package for package in _PACKAGES.get(row.network, ()) if find_spec(package) is None]
    if missing:
        return f"{', '.join(missing)} missing: {pip_install('export,train')}"
    if row.runtime == "openvino":
        return None if find_spec("openvino") else f"openvino is missing: {pip_install('tools')}"
    if row.runtime.startswith("torch"):
        return cuda_missing() if row.on_gpu else None
    return backend_unavailable(row.runtime)


def _ultralytics_unavailable() -> str | None:
    """Why YOLO26-depth cannot be made."""
    needs = f"needs ultralytics {ULTRALYTICS} or later, which you install yourself (it is under the AGPL-3.0)"
    try:
        found = version("ultralytics")
    except PackageNotFoundError:
        return f"{needs}: pip install ultralytics"
    numbers = [tuple(map(int, re.findall(r"\d+", text)[:3])) for text in (found, ULTRALYTICS)]
    return None if numbers[0] >= numbers[1] else f"{needs}; found {found}"
