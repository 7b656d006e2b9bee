"""Loggers, and how TensorRT speaks through them."""

from __future__ import annotations

import sys
from typing import Any

from stand_ins.machine import current
from stand_ins.trt_enums import enum, expect


class ILogger:
    """Base of loggers; a subclass must call `__init__` and override `log`."""

    def __init__(self) -> None:
        self._made = True

    def log(self, severity: Any, msg: str) -> None:
        """Must be overridden."""
        raise RuntimeError('Tried to call pure virtual function "nvinfer1::ILogger::log"')


class Logger(ILogger):
    """Prints to stderr."""

    def __init__(self, min_severity: Any = None) -> None:
        super().__init__()
        self._minimum = enum("ILogger.Severity").WARNING if min_severity is None else min_severity

    @property
    def min_severity(self) -> Any:
        """Least important severity that is shown."""
        return self._minimum

    @min_severity.setter
    def min_severity(self, value: Any) -> None:
        self._minimum = expect(value, "ILogger.Severity")

    def log(self, severity: Any, msg: str) -> None:
        """Print a message."""
        if int(severity) <= int(self._minimum):
            print(f"[TRT] [{severity.name[0]}] {msg}", file=sys.stderr)  # noqa: T201 - that is what it does


def checked(logger: Any) -> ILogger:
    """A logger as constructors take it.

    Raises:
        TypeError: it is none, or its `__init__` did not call the base class's.
    """
    if not isinstance(logger, ILogger):
        raise TypeError(f"incompatible constructor arguments: expected tensorrt.ILogger, got {logger!r}")
    if not getattr(logger, "_made", False):
        raise TypeError("tensorrt.ILogger.__init__() must be called when overriding __init__")
    return logger


def say(logger: ILogger, severity: str, text: str) -> None:
    """Log a message; as in TensorRT, an exception in the logger goes to stderr and no further."""
    current().log.append((severity, text))
    try:
        logger.log(getattr(enum("ILogger.Severity"), severity), text)
    except Exception as error:
        print(f"[ERROR] Exception caught in log(): {error}", file=sys.stderr)  # noqa: T201
