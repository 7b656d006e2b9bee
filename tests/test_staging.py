"""Staging folders: nothing half made is ever in place, and what killed processes leave goes away."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from spd.staging import staged, staging

NAME = "atto-1.0"


def contents(folder: Path) -> dict[str, str]:
    """Text of every file below a folder, by its path."""
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@contextmanager
def another_process(parent: Path, name: str) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process that is at work in a staging folder; killed at the end."""
    code = (
        "import sys, pathlib\nfrom spd.staging import staging\n"
        "with staging(pathlib.Path(sys.argv[1]), sys.argv[2]) as folder:\n"
        "    (folder / 'half').write_text('done')\n    print(folder, flush=True)\n    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(parent), name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, Path(process.stdout.readline().rstrip("\n"))
        finally:
            process.kill()


def test_a_staging_folder_is_hidden_empty_and_gone_at_the_end(tmp_path: Path) -> None:
    with staging(tmp_path, NAME) as folder:
        assert folder.parent == tmp_path
        assert folder.name.startswith(f".{NAME}.")
        assert list(folder.iterdir()) == []
        (folder / "below").mkdir()
        (folder / "below" / "file").write_text("x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_leaves_nothing_and_the_old_one_stays(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / NAME
    target.mkdir()
    (target / "file").write_text("old")

    def fail() -> None:
        with staged(target) as folder:
            (folder / "file").write_text("new")
            raise error

    with pytest.raises(error):
        fail()
    assert contents(tmp_path) == {f"{NAME}/file": "old"}
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


@pytest.mark.parametrize("old", [False, True])
def test_a_staged_folder_takes_its_place_whole(tmp_path: Path, old: bool) -> None:
    target = tmp_path / "deep" / NAME
    if old:
        target.mkdir(parents=True)
        (target / "old").write_text("old")
    with staged(target) as folder:
        (folder / "file").write_text("new")
        assert (target / "old").exists() == old
        assert not (target / "file").exists()
    assert contents(tmp_path) == {f"deep/{NAME}/file": "new"}
    assert [path.name for path in target.parent.iterdir()] == [NAME]


def test_a_failed_rename_puts_the_old_one_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / NAME
    target.mkdir()
    (target / "file").write_text("old")
    rename = Path.rename

    def fail(self: Path, to: Path) -> Path:
        if self.name.endswith(".partial"):
            raise PermissionError(13, "Permission denied", str(self))
        return rename(self, to)

    def replace() -> None:
        with staged(target) as folder:
            (folder / "file").write_text("new")

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(PermissionError):
        replace()
    assert contents(tmp_path) == {f"{NAME}/file": "old"}


def test_leftovers_of_a_killed_process_go_and_those_of_a_living_one_stay(tmp_path: Path) -> None:
    with another_process(tmp_path, NAME) as (process, theirs):
        with staging(tmp_path, NAME) as folder:
            assert folder != theirs
            assert (theirs / "half").is_file(), "it is at work"
        process.kill()
        process.wait()
        assert (theirs / "half").is_file(), "a killed process cleans nothing up"
        with staging(tmp_path, NAME):
            assert not theirs.exists()
    assert list(tmp_path.iterdir()) == []


def test_two_in_one_process_leave_each_other_alone(tmp_path: Path) -> None:
    with staging(tmp_path, NAME) as one:
        (one / "file").write_text("one")
        with staging(tmp_path, NAME) as two:
            assert one != two
        assert contents(one) == {"file": "one"}


def leave(parent: Path, stem: str, suffix: str) -> None:
    """What a process leaves that was killed at some point."""
    (parent / f".{stem}.lock").touch()
    (parent / f".{stem}{suffix}").mkdir()
    (parent / f".{stem}{suffix}" / "file").write_text(stem)


def test_what_was_moved_away_before_a_kill_is_put_back(tmp_path: Path) -> None:
    leave(tmp_path, f"{NAME}.0123abcd", ".replaced")
    leave(tmp_path, f"{NAME}.0123abcd", ".partial")
    with staging(tmp_path, NAME):
        assert (tmp_path / NAME / "file").is_file()
    assert contents(tmp_path) == {f"{NAME}/file": f"{NAME}.0123abcd"}


def test_what_was_replaced_before_a_kill_is_removed(tmp_path: Path) -> None:
    leave(tmp_path, f"{NAME}.0123abcd", ".replaced")
    (tmp_path / NAME).mkdir()
    (tmp_path / NAME / "file").write_text("new")
    with staging(tmp_path, NAME):
        pass
    assert contents(tmp_path) == {f"{NAME}/file": "new"}


def test_leftovers_of_other_names_stay(tmp_path: Path) -> None:
    stems = [f"{NAME}.b.0123abcd", "atto-1x0.0123abcd", f"{NAME}.0123abcde", f"{NAME}.manifest", "other.0123abcd"]
    for stem in stems:
        leave(tmp_path, stem, ".replaced")
    before = contents(tmp_path)
    with staging(tmp_path, NAME):
        pass
    assert contents(tmp_path) == before
