"""The stub runtime behind the command."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from evaluation_support import SomePairs, StubModel, constant


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StubModel]:
    """The stub runtime with two images, 2 and 4 m away, in an empty folder; nothing half written may stay in it."""
    stub = StubModel(constant(2, 4), lambda depth: 1.25 * depth)
    stub.opened = []

    def load(path: Path, **options: Any) -> StubModel:
        stub.opened.append({"path": str(path), **options})
        return stub

    def open_pairs(data: str, split: str) -> SomePairs:
        stub.opened.append((data, split))
        return stub.pairs

    monkeypatch.setattr("spd.evaluation.run.load", load)
    monkeypatch.setattr("spd.evaluation.run.open_pairs", open_pairs)
    monkeypatch.chdir(tmp_path)
    yield stub
    assert not list(Path().rglob(".spd-*"))
