"""What long commands say of themselves: lines at intervals, a bar on a terminal, and never a long silence."""

from __future__ import annotations

import io
import re
import threading
import time

import pytest
from rich.console import Console

from spd.commands import progress
from spd.commands.progress import Phase, Phases


def phases(*, terminal: bool = False, live: bool = True) -> tuple[Phases, io.StringIO]:
    text = io.StringIO()
    return Phases(Console(file=text, force_terminal=terminal, width=100), live=live), text


@pytest.mark.parametrize(
    ("total", "unit", "done", "detail", "state"),
    [
        (None, "", None, "", ""),
        (None, "", 0.254, "", "25%"),
        (None, "", None, "Tactics 3/9", "Tactics 3/9"),
        (None, "", 1.0, "Tactics 3/9", "100%, Tactics 3/9"),
        (654, "images", 0, "", "0 of 654 images"),
        (654, "images", 12, "a.png", "12 of 654 images, 6 a second, a.png"),
        (3, "", 3, "", "3 of 3, 1.5 a second"),
    ],
)
def test_how_far_a_phase_is(
    monkeypatch: pytest.MonkeyPatch, total: int | None, unit: str, done: float | None, detail: str, state: str
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    phase = Phase("x", total, unit)
    assert (phase.state, phase.share) == ("", None)
    now += 2
    phase(done, detail)
    assert phase.state == state
    assert phase.share == (None if done is None else done / (total or 1))


@pytest.mark.parametrize(
    ("total", "done", "left"),
    [
        (100, 25, "about 60 s left"),
        (None, 0.8, "about 5 s left"),
        (100, 0, ""),
        (100, None, ""),
        (4, 4, "about 0 s left"),
    ],
)
def test_how_long_a_phase_still_takes(
    monkeypatch: pytest.MonkeyPatch, total: int | None, done: float | None, left: str
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    phase = Phase("x", total, "images")
    phase(done)
    now += 20
    assert phase.left == left


def test_nothing_to_do_is_no_division_by_zero() -> None:
    phase = Phase("x", 0, "images")
    phase(0)
    assert (phase.state, phase.share) == ("0 of 0 images", None)


def test_a_line_for_each_phase_without_a_terminal() -> None:
    made, text = phases()
    with made("one [of] two"):
        made.say("note [bold]")
    with made("two"):
        pass
    assert re.fullmatch(r" +0\.\d s  one \[of\] two\nnote \[bold\]\n +0\.\d s  two\n", text.getvalue())


def test_a_phase_that_says_nothing_is_not_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.02)
    made, text = phases()
    with made("tracing"):
        end = time.monotonic() + 10
        while text.getvalue().count("\n") < 3 and time.monotonic() < end:
            time.sleep(0.005)
    lines = text.getvalue().splitlines()
    assert len(lines) >= 3
    assert all(re.fullmatch(r" +\d\.\d s  tracing: \d s", line) for line in lines[1:])


def test_lines_say_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.02)
    made, text = phases()
    with made("evaluating", total=9, unit="images") as phase:
        phase(4, "a.png")
        end = time.monotonic() + 10
        while text.getvalue().count("\n") < 2 and time.monotonic() < end:
            time.sleep(0.005)
    assert re.search(
        r"evaluating: \d s, 4 of 9 images, [\d.e+]+ a second, a\.png, about 0 s left$", text.getvalue().splitlines()[1]
    )


@pytest.mark.parametrize("terminal", [False, True])
def test_an_error_comes_out_and_no_thread_stays(terminal: bool) -> None:
    made, text = phases(terminal=terminal)

    def fail() -> None:
        with made("breaking"):
            raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        fail()
    assert "spd-progress" not in [thread.name for thread in threading.enumerate()]
    assert "✓" not in text.getvalue()


def test_a_bar_on_a_terminal_shows_the_state_and_becomes_a_line() -> None:
    made, text = phases(terminal=True)
    with made("evaluating [x]", total=8, unit="images") as phase:
        for done in range(9):
            phase(done)
        time.sleep(0.15)  # a bar is drawn ten times a second
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.getvalue())
    assert "8 of 8 images" in plain
    assert re.search(r"✓ evaluating \[x\] \d\.\d s$", plain.rstrip())


def test_no_bar_where_drawing_would_disturb() -> None:
    made, text = phases(terminal=True, live=False)
    with made("timing") as phase:
        phase(0.5)
    assert re.fullmatch(r" +0\.\d s  timing\n", text.getvalue())
