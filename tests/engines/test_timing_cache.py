"""The timing cache's file: kept, refused and written whole."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from engines.timing_cache import TimingCache, default_path
from spd.bundle.plans import Target

HERE = Target("10.16.1.11", "13.0", "13.0", "NVIDIA H200", "9.0")


class Config:
    """The part of IBuilderConfig that the cache uses; the caches are the bytes themselves."""

    def __init__(self, refuses: tuple[bytes, ...] = (), after: bytes | None = b"\x00timings\n\xff") -> None:
        self.refuses, self.after = refuses, after
        self.attached: bytes | None = None

    def create_timing_cache(self, data: bytes) -> bytes:
        return data

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
        assert ignore_mismatch is False
        if cache in self.refuses:
            return False
        self.attached = cache
        return True

    def get_timing_cache(self) -> Config:
        return self

    def serialize(self) -> bytes | None:
        return self.after


def attached(path: Path, target: Target = HERE) -> tuple[bytes | None, list[str]]:
    said: list[str] = []
    config = Config()
    TimingCache(path, target, said.append).attach(config)
    return config.attached, said


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A cache as a build leaves it."""
    path = tmp_path / "new" / "timing.cache"
    TimingCache(path, HERE, print).keep(Config())
    return path


def test_timings_are_kept_from_build_to_build(path: Path) -> None:
    assert attached(path) == (b"\x00timings\n\xff", [])
    assert list(path.parent.iterdir()) == [path]


def test_a_missing_cache_is_an_empty_one(tmp_path: Path) -> None:
    assert attached(tmp_path / "none") == (b"", [])


@pytest.mark.parametrize(
    ("other", "word"),
    [
        (replace(HERE, tensorrt="11.4.0.106"), "was made with tensorrt 10.16.1.11, this is 11.4.0.106"),
        (replace(HERE, gpu="NVIDIA L4"), "was made with gpu NVIDIA H200, this is NVIDIA L4"),
    ],
)
def test_a_cache_of_another_machine_is_discarded_with_a_word(path: Path, other: Target, word: str) -> None:
    data, said = attached(path, other)
    assert data == b""
    assert len(said) == 1
    assert word in said[0]


@pytest.mark.parametrize("damage", ["cut", "changed", "noise", "empty", "list"])
def test_a_damaged_cache_is_discarded_with_a_word(path: Path, damage: str) -> None:
    whole = path.read_bytes()
    path.write_bytes(
        {
            "cut": whole[:-3],
            "changed": whole.replace(b"timings", b"timinks"),
            "noise": b"\xff\x00\n\x01",
            "empty": b"",
            "list": json.dumps([1]).encode() + b"\n",
        }[damage]
    )
    data, said = attached(path)
    assert data == b""
    assert len(said) == 1
    assert "discarded" in said[0]


def test_what_tensorrt_refuses_is_replaced_by_an_empty_cache(path: Path) -> None:
    said: list[str] = []
    config = Config(refuses=(b"\x00timings\n\xff",))
    TimingCache(path, HERE, said.append).attach(config)
    assert config.attached == b""
    assert len(said) == 1
    assert "refuses" in said[0]


def test_no_cache_at_all(tmp_path: Path) -> None:
    config = Config()
    cache = TimingCache(None, HERE, print)
    cache.attach(config)
    cache.keep(config)
    assert config.attached is None
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_a_word_and_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said: list[str] = []
    TimingCache(tmp_path / "file" / "timing.cache", HERE, said.append).keep(Config())
    assert len(said) == 2, said
    assert "cannot be read" in said[0]
    assert "cannot be written" in said[1]


def test_a_cache_that_tensorrt_does_not_give_back_leaves_the_old_one(path: Path) -> None:
    before = path.read_bytes()
    said: list[str] = []
    TimingCache(path, HERE, said.append).keep(Config(after=None))
    assert path.read_bytes() == before
    assert len(said) == 1


def test_the_default_is_the_users_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_path() == tmp_path / "spd-depth" / "timing.cache"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_path() == Path.home() / ".cache" / "spd-depth" / "timing.cache"
