"""A photo belongs to one part, whatever is added and however often a job is begun."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spd.bulk.places import Place
from spd.bulk.plan import Job, make_plan, parts_to_do
from spd.errors import InputError

JOB = Job("f00d", "grid:256")


@settings(deadline=None)  # it writes files
@given(runs=st.lists(st.tuples(st.lists(st.integers(0, 40)), st.integers(1, 7)), min_size=1, max_size=4))
def test_every_photo_is_in_one_part_and_stays_there(runs: list[tuple[list[int], int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        out = Place(f"{folder}/out")
        places: dict[str, int] = {}
        for numbers, size in runs:
            photos = list(dict.fromkeys(f"{number}.jpg" for number in numbers))
            parts = make_plan(out, JOB, photos, size)
            assert [part.index for part in parts] == list(range(len(parts)))
            found = {photo: part.index for part in parts for photo in part.photos}
            assert len(found) == sum(len(part.photos) for part in parts)
            assert found.items() >= places.items()
            assert found.keys() == places.keys() | set(photos)
            assert all(len(part.photos) <= 7 for part in parts)
            places = found


def test_a_part_is_done_when_its_file_is_there(tmp_path: Path) -> None:
    out = Place(str(tmp_path / "out"))
    parts = make_plan(out, JOB, ["a", "b", "c", "d", "e"], 2)
    assert [part.photos for part in parts_to_do(out, parts)] == [("a", "b"), ("c", "d"), ("e",)]
    (out / parts[1].file).write(b"")
    assert [part.index for part in parts_to_do(out, make_plan(out, JOB, ["a", "b", "c", "d", "e"], 2))] == [0, 2]


@pytest.mark.parametrize(("job", "said"), [(Job("beef", "grid:256"), "bundle"), (Job("f00d", "grid:9"), "points")])
def test_a_folder_of_another_job_is_left_alone(tmp_path: Path, job: Job, said: str) -> None:
    out = Place(str(tmp_path / "out"))
    make_plan(out, JOB, ["a"], 2)
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with pytest.raises(InputError, match=f"begun with {said}"):
        make_plan(out, job, ["b"], 2)
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").touch()
    with pytest.raises(InputError, match=r"mine\.csv"):
        make_plan(Place(str(tmp_path)), JOB, ["a"], 2)
