"""Workers answer, fail with one line, and are gone when they are closed."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench_support import Echo, make_facts, make_nothing

from tools.bench.worker import Worker, WorkerError, _ctrl_c_held_back


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    with Worker(Echo, tmp_path) as made:
        made.made()
        yield made


def process_of(worker: Worker) -> int:
    process = worker._process.pid
    assert process is not None
    return process


def test_it_answers_until_it_is_closed(worker: Worker) -> None:
    assert [worker.call("twice", number) for number in (1, 2, 3)] == [2, 4, 6]
    process = process_of(worker)
    assert process != os.getpid()
    worker.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    assert not worker._log.exists()


def test_a_failure_is_one_line_and_not_the_end(worker: Worker) -> None:
    with pytest.raises(WorkerError, match=r"^ValueError: no$"):
        worker.call("fail")
    with pytest.raises(WorkerError, match=r"^this is not it$"):
        worker.call("refuse")
    assert worker.call("twice", 4) == 8


def test_a_process_that_dies_says_how(worker: Worker) -> None:
    with pytest.raises(WorkerError, match=r"^its process ended with exit code 7: about to go$"):
        worker.call("die")
    with pytest.raises(WorkerError, match="exit code 7"):
        worker.call("twice", 1)


def test_ctrl_c_does_not_reach_it(worker: Worker) -> None:
    assert worker.call("interrupt") == "still here"
    assert worker.call("twice", 1) == 2


def test_what_cannot_be_made(tmp_path: Path) -> None:
    with Worker(make_nothing, tmp_path) as worker, pytest.raises(WorkerError, match=r"^FileNotFoundError: .* is not"):
        worker.made()


def test_plain_data_comes_back(tmp_path: Path) -> None:
    with Worker(make_facts, tmp_path / "a") as worker:
        assert worker.made() == {"a": 1}


def test_ctrl_c_waits_for_the_end_of_a_start() -> None:
    reached = []

    def start() -> None:
        with _ctrl_c_held_back():
            signal.raise_signal(signal.SIGINT)
            reached.append(True)

    with pytest.raises(KeyboardInterrupt):
        start()
    assert reached
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_in_a_start_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    real = os.close

    def close(descriptor: int) -> None:
        """What `Worker` calls first."""
        monkeypatch.setattr(os, "close", real)
        real(descriptor)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(os, "close", close)
    with pytest.raises(KeyboardInterrupt):
        Worker(Echo, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert multiprocessing.active_children() == []
