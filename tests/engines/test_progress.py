"""What a build shows, and how Ctrl-C ends it."""

from __future__ import annotations

import io
import re
import signal
import threading
import time
from collections.abc import Callable

import pytest
from rich.console import Console

from engines.progress import BuildState, Phase, watch
from spd.commands import progress
from spd.commands.progress import Phases


def plain() -> tuple[Phases, Callable[[], str]]:
    text = io.StringIO()
    return Phases(Console(file=text, force_terminal=False, width=200)), text.getvalue


def test_phases_nest_and_end() -> None:
    state = BuildState()
    state.start("Building Engine", 3)
    state.start("Tactics", 100)
    assert state.step("Tactics", 41)
    assert state.phases() == [Phase("Building Engine", 0, 3), Phase("Tactics", 42, 100)]
    state.finish("Tactics")
    assert [phase.name for phase in state.phases()] == ["Building Engine"]


def test_a_cancelled_build_is_told_at_its_next_step() -> None:
    state = BuildState()
    state.start("Tactics", 2)
    assert state.step("Tactics", 0)
    state.cancel()
    assert not state.step("Tactics", 1)


def working(state: BuildState, seconds: float) -> Callable[[], str]:
    """A build that asks after every step whether to go on."""

    def work() -> str:
        state.start("Building Engine", 4)
        state.start("Tactics", 1000)
        end = time.monotonic() + seconds
        count = 0
        while time.monotonic() < end:
            time.sleep(0.01)
            if not state.step("Tactics", count):
                return "stopped"
            count += 1
        return "built"

    return work


def test_lines_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.2)
    phases, text = plain()
    state = BuildState()
    assert watch("building x", working(state, 0.7), state, phases) == "built"
    lines = text().splitlines()
    assert lines[0].endswith(" s  building x")
    assert 2 <= len(lines) <= 5
    form = r" +\d\.\d s  building x: [01] s, 0%, Building Engine 0/4, Tactics (\d+)/1000"
    counts = [int(line[1]) for line in (re.fullmatch(form, line) for line in lines[1:]) if line]
    assert len(counts) == len(lines) - 1
    assert counts == sorted(counts)


def test_a_bar_on_a_terminal() -> None:
    text = io.StringIO()
    phases = Phases(Console(file=text, force_terminal=True, width=120))
    state = BuildState()
    assert watch("building x", working(state, 0.5), state, phases) == "built"
    assert "building x" in text.getvalue()
    assert "Tactics" in text.getvalue()


def test_ctrl_c_stops_the_build_and_then_raises() -> None:
    phases, text = plain()
    state = BuildState()
    before = signal.getsignal(signal.SIGINT)
    threading.Timer(0.3, lambda: signal.raise_signal(signal.SIGINT)).start()
    ended: list[str] = []
    work = working(state, 30)
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        watch("building x", lambda: ended.append(work()), state, phases)
    assert time.monotonic() - begin < 10
    assert ended == ["stopped"]
    assert "Stopping" in text()
    assert signal.getsignal(signal.SIGINT) is before


def test_an_error_of_the_build_comes_out() -> None:
    phases, _ = plain()

    def fail() -> None:
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        watch("building x", fail, BuildState(), phases)


def test_a_build_in_another_thread_leaves_signals_alone() -> None:
    phases, _ = plain()
    state = BuildState()
    done: list[str] = []
    thread = threading.Thread(target=lambda: done.append(watch("x", working(state, 0.05), state, phases)))
    thread.start()
    thread.join()
    assert done == ["built"]
