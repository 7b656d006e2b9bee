"""The kernels of a compiled plan, as the builder of TensorRT for RTX lists them in its log.

With detailed verbosity the log has a line for each kernel: its inputs, constants and outputs with their shapes and
types, and the ONNX nodes that it computes. TensorRT's inspector says the same, but needs a GPU.
"""

from __future__ import annotations

import re

from engines.layers import BITS, Layer, Tensor, onnx_nodes
from spd.errors import TensorRTError

SYNCHRONISING = ("signal", "wait")
"""Types of lines that are no kernels: one stream waits for another."""

_LINE = re.compile(
    r"Name: (.*?), LayerType: (\w+), Inputs: \[(.*?)\], Constants: \[(.*?)\], Outputs: \[(.*?)\], "
    r"TacticName: (.*?), StreamId: -?\d+(?:, EventId: -?\d+)?, Metadata: ?(.*)"
)
_TENSOR = re.compile(
    r" \{ Name: ([^{}]*?), Dimensions: \[([-\d,]*)\], Strides: \[[-\d,]*\], StrideOrder: \[[\d,]*\], "
    rf"Datatype: ({'|'.join(BITS)}), Format: [^{{}}]*\}}(?:,|$)"
)
_PROFILE = re.compile(r"_myl(\d+)_\d+$")
_SCRATCH = re.compile(r"^Max Scratch Memory: (\d+) bytes$", re.MULTILINE)


class Kernel(Layer):
    """One kernel of a plan whose shapes are fixed."""

    @property
    def profile(self) -> int:
        """Which of the plan's profiles it is for, from 0 on."""
        found = _PROFILE.search(self.name)
        return 0 if found is None else int(found[1])

    @property
    def nbytes(self) -> int:
        """Bytes of all that it reads and writes; a tensor that is listed twice counts twice."""
        return sum(tensor.nbytes for tensor in self.tensors)


def read_kernels(log: str, graph: str) -> tuple[Kernel, ...]:
    """The kernels of a plan, in TensorRT's order.

    Args:
        log: every message of the builder, verbose ones too, each from the beginning of a line.
        graph: what was built, for messages.

    Raises:
        TensorRTError: there are none, or a line is not of the known form.
    """
    lines = [line for line in log.split("\n") if line.startswith("Name: ")]
    found = [_kernel(line, graph) for line in lines]
    kernels = tuple(kernel for kernel in found if kernel.type not in SYNCHRONISING)
    if not kernels:
        raise TensorRTError(
            f"the log of the builder lists no kernels of {graph} among {len(log.splitlines())} lines, expected lines "
            "that begin with 'Name: '; this version of spd-depth reads the log of TensorRT for RTX 1.7"
        )
    return kernels


def read_scratch(log: str, graph: str) -> tuple[int, ...]:
    """Bytes of scratch memory that a context needs, for each profile; the arguments are those of `read_kernels`.

    Raises:
        TensorRTError: the log does not say.
    """
    found = _SCRATCH.findall(log)
    if not found:
        raise TensorRTError(
            f"the log of the builder does not say the scratch memory of {graph}, expected a line 'Max Scratch Memory'; "
            "this version of spd-depth reads the log of TensorRT for RTX 1.7"
        )
    return tuple(map(int, found))


def _kernel(line: str, graph: str) -> Kernel:
    """The kernel, signal or wait that a line describes."""
    found = _LINE.fullmatch(line)
    rest = line if found is None else "".join(_TENSOR.sub("", text) for text in found.group(3, 4, 5))
    if found is None or rest:
        raise TensorRTError(
            f"the log of the builder describes a kernel of {graph} in another form than that of TensorRT for RTX 1.7, "
            f"which this version of spd-depth reads: {rest[:200]!r} in {line[:200]!r}"
        )
    name, layer_type, *listed, tactic, metadata = found.groups()
    inputs, constants, outputs = (_tensors(text) for text in listed)
    return Kernel(name, layer_type, tactic, onnx_nodes(metadata), inputs, constants, outputs)


def _tensors(text: str) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(name, tuple(int(size) for size in shape.split(",") if size), dtype)
        for name, shape, dtype in _TENSOR.findall(text)
    )
