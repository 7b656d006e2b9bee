"""What the tests of checkpoints share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from spd.checkpoint import load_checkpoint
from spd.errors import CheckpointError


def refusal(path: Path, *preset: str, **settings: Any) -> str:
    """The message with which `load_checkpoint` refuses a file."""
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path, *preset, **settings)
    message = str(caught.value)
    assert message.isprintable(), message
    assert len(message) > 20
    return message
