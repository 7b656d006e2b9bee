"""For tests that compile with TensorRT for RTX."""

from __future__ import annotations

import platform
import sys

import pytest

needs_rtx = pytest.mark.skipif(
    not (sys.platform in ("linux", "win32") and platform.machine() in ("x86_64", "AMD64")),
    reason="TensorRT for RTX has packages for Linux and Windows on x86-64 only",
)
