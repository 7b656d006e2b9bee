"""The timing cache's files: one for each TensorRT and GPU, added to by every build, refused if they are damaged."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock

from engines.timing_cache import TimingCache
from spd import cache_files
from spd.bundle.plans import Target
from spd.cache_files import user_cache_folder

HERE = Target("10.16.1.11", "13.0", "13.0", "NVIDIA H200", "9.0")


class Cache:
    """The part of ITimingCache that is used: a set of timings."""

    def __init__(self, data: bytes, serializes: bool = True) -> None:
        self.timings, self.serializes = set(data.split()), serializes

    def serialize(self) -> bytes | None:
        return b"\n".join(sorted(self.timings)) if self.serializes else None

    def combine(self, other: Cache, ignore_mismatch: bool) -> bool:
        assert ignore_mismatch is False
        if b"refused" in other.timings:
            return False
        self.timings |= other.timings
        return True


class Config:
    """The part of IBuilderConfig that is used."""

    def __init__(self) -> None:
        self.cache: Cache | None = None

    def create_timing_cache(self, data: bytes) -> Cache:
        return Cache(data)

    def set_timing_cache(self, cache: Cache, ignore_mismatch: bool) -> bool:
        assert ignore_mismatch is False
        if b"refused" in cache.timings:
            return False
        self.cache = cache
        return True

    def get_timing_cache(self) -> Cache | None:
        return self.cache


def build(cache: TimingCache, *timings: bytes) -> set[bytes]:
    """What a build knew before; then it measures something, and keeps it."""
    config = Config()
    cache.attach(config)
    assert config.cache is not None
    before = set(config.cache.timings)
    config.cache.timings |= {*timings}
    cache.keep(config)
    return before


def read(folder: Path, target: Target = HERE) -> tuple[set[bytes], list[str]]:
    """What a new build starts with, and what is said about it."""
    said: list[str] = []
    config = Config()
    TimingCache(folder, target, said.append).attach(config)
    assert config.cache is not None
    return config.cache.timings, said


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Caches as a build leaves them."""
    build(TimingCache(tmp_path / "new", HERE, print), b"a", b"b")
    return tmp_path / "new"


def file_of(folder: Path) -> Path:
    (path,) = folder.glob("*.cache")
    return path


def test_timings_are_kept_from_build_to_build(folder: Path) -> None:
    assert read(folder) == ({b"a", b"b"}, [])
    assert file_of(folder).name == "timing_10.16.1.11_NVIDIA_H200_9.0.cache"


def test_a_missing_cache_is_an_empty_one(tmp_path: Path) -> None:
    assert read(tmp_path / "none") == (set(), [])


@pytest.mark.parametrize(
    "other", [{"tensorrt": "11.4.0.106"}, {"gpu": "NVIDIA L4"}, {"compute_capability": "10.0"}, {"gpu": "../../x y/z"}]
)
def test_every_tensorrt_and_gpu_has_its_own(folder: Path, other: dict[str, str]) -> None:
    there = replace(HERE, **other)
    assert build(TimingCache(folder, there, print), b"c") == set()
    assert read(folder, there) == ({b"c"}, [])
    assert read(folder) == ({b"a", b"b"}, [])
    assert len(list(folder.glob("*.cache"))) == 2


def test_a_newer_driver_takes_the_same(folder: Path) -> None:
    assert read(folder, replace(HERE, driver="13.2", cuda="13.1")) == ({b"a", b"b"}, [])


def test_a_file_that_was_copied_from_another_machine_is_discarded(folder: Path) -> None:
    there = replace(HERE, gpu="NVIDIA L4")
    build(TimingCache(folder, there, print), b"c")
    ours, theirs = sorted(folder.glob("*.cache"))
    assert "H200" in ours.name
    ours.write_bytes(theirs.read_bytes())
    timings, said = read(folder)
    assert timings == set()
    assert ["discarded, this timing cache was made with another" in line for line in said] == [True]


@pytest.mark.parametrize("damage", ["cut", "changed", "noise", "empty", "list"])
def test_a_damaged_cache_is_discarded_with_a_word(folder: Path, damage: str) -> None:
    path = file_of(folder)
    whole = path.read_bytes()
    path.write_bytes(
        {
            "cut": whole[:-1],
            "changed": whole.replace(b"\na", b"\nx"),
            "noise": b"\xff\x00\n\x01",
            "empty": b"",
            "list": json.dumps([1]).encode() + b"\n",
        }[damage]
    )
    said: list[str] = []
    cache = TimingCache(folder, HERE, said.append)
    assert build(cache, b"c") == set()
    assert len(said) == 1
    assert "discarded" in said[0]
    assert read(folder) == ({b"c"}, [])


def test_what_tensorrt_refuses_is_replaced_by_an_empty_cache(tmp_path: Path) -> None:
    build(TimingCache(tmp_path, HERE, print), b"refused")
    said: list[str] = []
    assert build(TimingCache(tmp_path, HERE, said.append), b"c") == set()
    assert len(said) == 1
    assert "refuses" in said[0]


def test_two_builds_at_once_lose_nothing(folder: Path) -> None:
    first, second = (TimingCache(folder, HERE, print) for _ in range(2))
    assert build(first, b"c") == {b"a", b"b"}
    assert build(second, b"d") == {b"a", b"b"}, "as it read the file before"
    assert build(first, b"e") == {b"a", b"b", b"c"}
    assert read(folder) == ({b"a", b"b", b"c", b"d", b"e"}, [])


def test_many_builds_at_once_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where a build takes its time between reading and writing."""
    real = Cache.combine

    def slow(self: Cache, other: Cache, ignore_mismatch: bool) -> bool:
        time.sleep(0.01)
        return real(self, other, ignore_mismatch)

    monkeypatch.setattr(Cache, "combine", slow)
    barrier = threading.Barrier(8)

    def work(number: int) -> None:
        cache = TimingCache(tmp_path, HERE, print)
        barrier.wait(30)
        build(cache, b"%d" % number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert read(tmp_path) == ({b"%d" % number for number in range(8)}, [])


def test_what_another_build_measured_and_tensorrt_does_not_take(folder: Path) -> None:
    said: list[str] = []
    cache = TimingCache(folder, HERE, said.append)
    build(TimingCache(folder, HERE, print), b"refused")
    build(cache, b"c")
    assert ["does not take what another build measured" in line for line in said] == [True]
    assert read(folder) == ({b"a", b"b", b"c"}, [])


def test_no_cache_at_all(tmp_path: Path) -> None:
    config = Config()
    cache = TimingCache(None, HERE, print)
    cache.attach(config)
    cache.keep(config)
    assert config.cache is None
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_a_word_and_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said: list[str] = []
    build(TimingCache(tmp_path / "file", HERE, said.append), b"a")
    assert len(said) == 2, said
    assert "cannot be read" in said[0]
    assert "cannot be written" in said[1]


def test_a_build_that_never_ends_its_writing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_files, "LOCK_SECONDS", 0.05)
    said: list[str] = []
    with FileLock(f"{file_of(folder)}.lock"):
        build(TimingCache(folder, HERE, said.append), b"c")
    assert ["cannot be written" in line for line in said] == [True]
    assert read(folder) == ({b"a", b"b"}, [])


@pytest.mark.parametrize("given", [None, Cache(b"a", serializes=False)])
def test_a_cache_that_tensorrt_does_not_give_back_leaves_the_old_one(folder: Path, given: Cache | None) -> None:
    before = file_of(folder).read_bytes()
    said: list[str] = []
    config = Config()
    cache = TimingCache(folder, HERE, said.append)
    config.cache = given
    cache.keep(config)
    assert file_of(folder).read_bytes() == before
    assert len(said) == 1


@pytest.mark.skipif("sys.platform != 'linux'", reason="the folder is Linux's")
def test_the_default_is_the_users_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache_folder() == tmp_path / "spd-depth"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert user_cache_folder() == Path.home() / ".cache" / "spd-depth"
