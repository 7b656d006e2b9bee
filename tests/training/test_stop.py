"""Ctrl-C and SIGTERM: the first is a request, the next acts."""

import os
import signal
import time

import pytest

from spd.training import stop as module
from spd.training.stop import StopRequest


def send(kind: signal.Signals) -> None:
    os.kill(os.getpid(), kind)
    time.sleep(0.01)  # Python runs the handler behind some bytecode


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_the_first_is_a_request(kind: signal.Signals, capfd: pytest.CaptureFixture[str]) -> None:
    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    with StopRequest(announced=True) as stop:
        assert not stop.asked
        send(kind)
        assert stop.asked
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == before
    assert capfd.readouterr().err == "\nStopping after this step; once more ends at once.\n"


def test_the_second_ends_at_once(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(module, "SAME_REQUEST", 0.0)
    with StopRequest(announced=False):
        send(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
    assert capfd.readouterr().err == ""


def test_a_request_that_is_passed_on_is_one() -> None:
    """torchrun sends the Ctrl-C that the terminal has sent, too, as SIGINT or as SIGTERM."""
    with StopRequest(announced=False) as stop:
        send(signal.SIGINT)
        send(signal.SIGINT)
        send(signal.SIGTERM)
        assert stop.asked


def test_sigterm_behind_ctrl_c_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class EndedError(Exception):
        pass

    def end(*_: object) -> None:
        raise EndedError

    before = signal.signal(signal.SIGTERM, end)
    try:
        monkeypatch.setattr(module, "SAME_REQUEST", 0.0)
        with StopRequest(announced=False):
            send(signal.SIGINT)
            with pytest.raises(EndedError):
                send(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
