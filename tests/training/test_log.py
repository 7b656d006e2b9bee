"""metrics.csv and TensorBoard: the same numbers in both, of the steps that count."""

import csv
import math
from pathlib import Path

import pytest
from training_support import scalars

from spd.training.log import SKIPPED_SHOWN, Log, Skipped
from spd.training.metrics_file import COLUMNS, METRICS

LOSS = {"loss": 0.1234567890123, "lr": 1e-4, "images_per_s": 12.5, "skipped": 3}
VALIDATION = {"abs_rel": 0.25, "rmse": 0.5, "delta1": 0.75}


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / METRICS).open(newline="") as file:
        return list(csv.DictReader(file))


def test_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Log(tmp_path, 2000, 0) as log:
        log.row(1000, LOSS)
        log.row(1000, VALIDATION)
        log.step(1001)
        log.say("a line\nof a file name")
    first, second = rows(tmp_path)
    assert tuple(first) == COLUMNS
    assert {name: float(value) for name, value in first.items() if value} == {"step": 1000, **LOSS}
    assert {name: float(value) for name, value in second.items() if value} == {"step": 1000, **VALIDATION}
    found = scalars(tmp_path)
    assert found == {name: {1000: pytest.approx(value, rel=1e-6)} for name, value in {**LOSS, **VALIDATION}.items()}
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["step 1,000 of 2,000: AbsRel 0.2500  loss 0.1235  12.5 images/s", "a line of a file name"]


def test_flush_writes_what_a_killed_run_would_lose(tmp_path: Path) -> None:
    with Log(tmp_path, 9, 0) as log:
        log.row(1, LOSS)
        log.flush()
        assert scalars(tmp_path)["lr"] == {1: pytest.approx(1e-4)}


def test_steps_that_were_lost_are_dropped(tmp_path: Path) -> None:
    with Log(tmp_path, 9, 0) as log:
        for step in (2, 4, 6):
            log.row(step, LOSS)
    with (tmp_path / METRICS).open("a") as file:
        file.write("7,0.1")  # cut off
    with Log(tmp_path, 9, 4) as log:
        log.row(6, {**LOSS, "loss": 7.0})
        log.row(8, {**LOSS, "loss": 8.0})
    assert [(row["step"], float(row["loss"])) for row in rows(tmp_path)] == [
        *((step, LOSS["loss"]) for step in "24"),
        ("6", 7.0),
        ("8", 8.0),
    ]
    assert scalars(tmp_path)["loss"] == pytest.approx({2: LOSS["loss"], 4: LOSS["loss"], 6: 7.0, 8: 8.0})


def test_a_file_that_is_not_understood_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / METRICS).write_text("something else\n1,2\n")
    with Log(tmp_path, 9, 5) as log:
        log.row(6, LOSS)
    assert [row["step"] for row in rows(tmp_path)] == ["6"]
    assert capsys.readouterr().err == (
        f"{tmp_path / METRICS}: has no column step; the file as it was is kept as metrics.old.csv\n"
    )


def test_a_loss_that_is_no_number_is_written(tmp_path: Path) -> None:
    with Log(tmp_path, 9, 0) as log:
        log.row(1, {**LOSS, "loss": math.nan})
    assert rows(tmp_path)[0]["loss"] == "nan"


def test_skipped_pairs_are_counted_and_named_once() -> None:
    said: list[str] = []
    skipped = Skipped(said.append)
    skipped.count(["a.png is empty", "b.png is empty"])
    skipped.count(["a.png is empty"])
    skipped.name(["c.png is empty", "a.png is empty"])
    assert said == [f"skipped: {name}.png is empty" for name in "abc"]
    assert (skipped.take(), skipped.take()) == (3, 0)
    skipped.count(str(number) for number in range(100))
    assert len(said) == SKIPPED_SHOWN
    assert skipped.take() == 100
