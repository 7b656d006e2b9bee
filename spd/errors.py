"""Every error that SPD raises on purpose.

    SPDError
    ├── InputError          something the caller passed in
    │   ├── ImageError      an image that cannot be read or has no pixels to use
    │   ├── DataError       a data set or one of its pairs that cannot be used
    │   └── PointsError     query points that cannot be read, are not finite, or lie outside
    ├── CheckpointError     weights that are missing, unsafe, or do not fit the model
    ├── BundleError         a bundle that is missing, incomplete, changed, or from a newer format
    ├── BackendError        a runtime that was asked for and cannot run here
    │   ├── CudaError       a CUDA call failed
    │   │   └── DeviceMemoryError   the GPU, or pinned host memory, is full
    │   └── TensorRTError   a TensorRT call failed, or a plan is not what the manifest says
    ├── TrainingError       a training run that cannot go on
    └── ExportError         a graph that cannot be written or is not what the contract says
        └── ParityError     a graph that does not compute what the model computes

A message says what it got, what was expected and what to do next, on one line, so that the commands can print it as
it is. Mistakes in SPD itself are `assert`s, never one of these.
"""

from __future__ import annotations


class SPDError(Exception):
    """Base of all errors above; catch it to catch every refusal of this library."""


class InputError(SPDError):
    """Something the caller passed in cannot be used."""


class ImageError(InputError):
    """An image cannot be read, is too large, or has no usable pixels."""


class DataError(InputError):
    """A data set is missing or of an unknown layout, or one of its pairs cannot be used; names the file."""


class PointsError(InputError):
    """Query points cannot be read, are not finite numbers, or lie outside the image."""


class CheckpointError(SPDError):
    """Weights are missing, unsafe to load, or do not fit the model."""


class BundleError(SPDError):
    """A bundle is missing, incomplete, changed since its export, or from a newer format."""


class BackendError(SPDError):
    """A runtime was asked for by name and cannot run here."""


class CudaError(BackendError):
    """A CUDA call failed; the message names the call and what it was for."""


class DeviceMemoryError(CudaError):
    """Memory on the GPU, or pinned memory on the host, is used up; says how much was wanted and how much is free."""


class TensorRTError(BackendError):
    """A TensorRT call failed, or a plan is not what the manifest says; the message names the call and the tensor."""


class TrainingError(SPDError):
    """A training run cannot go on: the loss is not finite, or the run does not fit what it is resumed with."""


class ExportError(SPDError):
    """A graph cannot be written, or is not what the contract says."""


class ParityError(ExportError):
    """An exported graph does not compute what the model computes."""


def one_line(error: BaseException, *, whole: bool = False) -> str:
    """An error's text for use within a message of one line.

    Args:
        error: of any library. Most explain themselves in their first line, and go on with advice or a stack.
        whole: take all lines, folded into one.

    Returns:
        Printable text: what a file brought along is escaped. The error's type where it has no text.
    """
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines if whole else lines[:1]) or type(error).__name__
    return text if text.isprintable() else ascii(text)
