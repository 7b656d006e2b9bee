"""The real command, from its first line to its exit code."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx2 as httpx
import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from serve_support import BINARY, Served, check_documented, png, wait_until

from spd.runtime import Model
from spd.serve.cli import main

OPTIONS = ("--backend", "onnxruntime-cpu", "--precision", "fp32", "--threads", "1")


@pytest.fixture(scope="module")
def served(exported: Path) -> Iterator[Served]:
    with Served(str(exported), *OPTIONS, "--max-points", "500", "--max-upload", "1MiB") as served:
        yield served


@pytest.fixture(scope="module")
def http(served: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.wait_ready()) as client:
        client.event_hooks = {"request": [], "response": [check_documented]}
        yield client


def test_from_an_image_to_depths(
    http: httpx.Client, served: Served, model: Model, room: NDArray[np.uint8], points: NDArray[np.float32]
) -> None:
    made = http.post("/scenes", files={"image": png(room)})
    path = made.headers["Location"]
    expected = model.encode(room).depth(points)
    json = http.post(f"{path}/depth", json={"points": points.tolist()})
    binary = http.post(f"{path}/depth", content=points.astype("<f4").tobytes(), headers=BINARY)
    np.testing.assert_array_equal(np.float32(json.json()["depth"]), expected)
    np.testing.assert_array_equal(np.frombuffer(binary.content, "<f4"), expected)
    assert http.delete(path).status_code == 204
    assert http.get(path).status_code == 404
    ready = served.lines[0]
    assert ready.startswith(f"{http.base_url}".rstrip("/"))
    assert " on onnxruntime-cpu fp32, 192 x 160 pixels" in ready


def test_its_options_are_its_limits(http: httpx.Client) -> None:
    info = http.get("/info").json()
    assert (info["max_points"], info["max_upload_bytes"], info["demo"]) == (500, 1 << 20, True)
    assert http.post("/scenes", content=bytes((1 << 20) + 1)).status_code == 413
    assert http.get("/readyz").status_code == 200


def test_a_port_in_use(served: Served, http: httpx.Client, exported: Path) -> None:
    with Served(str(exported), port=str(http.base_url.port)) as second:
        assert second.wait() == 1
        assert len(second.lines) == 1
        assert second.lines[0].startswith(f"Error: cannot listen on port {http.base_url.port} of 127.0.0.1: ")
        assert "choose another --port" in second.lines[0]


def test_no_bundle(tmp_path: Path) -> None:
    with Served(str(tmp_path / "nothing")) as served:
        assert served.wait() == 1
        (line,) = served.lines
        assert line.startswith("Error: ")
        assert "nothing" in line


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_what_runs_finish(exported: Path, room: NDArray[np.uint8], number: signal.Signals) -> None:
    body = png(room)
    with Served(str(exported), *OPTIONS) as served:
        address = urlsplit(served.wait_ready())
        with socket.create_connection((address.hostname, address.port)) as client:
            client.sendall(b"POST /scenes HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body))
            client.sendall(body[:100])
            wait_until(lambda: "spd_requests_held 1.0" in httpx.get(f"{address.geturl()}/metrics").text)
            served.process.send_signal(number)
            wait_until(lambda: refused(address.hostname, address.port))
            client.sendall(body[100:])
            assert client.makefile("rb").readline() == b"HTTP/1.1 201 Created\r\n"
        assert served.wait() == 0
        assert served.lines[-1] == "Stopping: what runs is finished."


def refused(host: str | None, port: int | None) -> bool:
    try:
        socket.create_connection((host, port)).close()
    except ConnectionRefusedError:
        return True
    return False


def test_what_does_not_finish_in_time(exported: Path) -> None:
    with Served(str(exported), *OPTIONS, "--drain", "1") as served:
        address = urlsplit(served.wait_ready())
        with socket.create_connection((address.hostname, address.port)) as client:
            client.sendall(b"POST /scenes HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
            wait_until(lambda: "spd_requests_held 1.0" in httpx.get(f"{address.geturl()}/metrics").text)
            assert served.end() == 0
            assert client.makefile("rb").readline() == b"HTTP/1.1 503 Service Unavailable\r\n"
        assert "Traceback" not in "\n".join(served.lines)


def test_a_second_signal_does_not_wait(exported: Path) -> None:
    with Served(str(exported), *OPTIONS, "--drain", "600") as served:
        address = urlsplit(served.wait_ready())
        with socket.create_connection((address.hostname, address.port)) as client:
            client.sendall(b"POST /scenes HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
            wait_until(lambda: "spd_requests_held 1.0" in httpx.get(f"{address.geturl()}/metrics").text)
            served.process.send_signal(signal.SIGINT)
            wait_until(lambda: refused(address.hostname, address.port))
            served.process.send_signal(signal.SIGINT)
            assert served.process.wait(20) == 0


def test_open_to_other_machines_with_a_warning_and_verbose(exported: Path) -> None:
    with Served(str(exported), *OPTIONS, "--host", "0.0.0.0", "-v") as served:
        url = served.wait_ready().replace("0.0.0.0", "127.0.0.1")
        assert httpx.get(f"{url}/info").status_code == 200
        assert served.end() == 0
        assert served.lines[0].startswith("Warning: 0.0.0.0 is open to other machines")
        assert any('"GET /info HTTP/1.1" 200' in line for line in served.lines)


def test_nothing_is_said_of_requests_otherwise(http: httpx.Client, exported: Path) -> None:
    with Served(str(exported), *OPTIONS) as served:
        url = served.wait_ready()
        httpx.get(f"{url}/nothing")
        with socket.create_connection((urlsplit(url).hostname, urlsplit(url).port)) as client:
            client.sendall(b"no HTTP at all\r\n\r\n")
            assert client.makefile("rb").readline().startswith(b"HTTP/1.1 400")
        assert served.end() == 0
        assert [line.split(" ")[0] for line in served.lines] == [url, "Note:", "Stopping:"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--cache-budget lots", "'lots' is not a size"),
        ("--max-upload 0", "too little"),
        ("--idle 0", "is not in the range"),
        ("--workers 0", "is not in the range"),
        ("--port 70000", "is not in the range"),
        ("--on-evicted never", "'never'"),
    ],
)
def test_wrong_options(arguments: str, words: str) -> None:
    result = CliRunner().invoke(main, ["engines", *arguments.split()])
    assert result.exit_code == 2
    assert words in result.stderr


def test_a_budget_that_holds_no_scene(exported: Path) -> None:
    with Served(str(exported), *OPTIONS, "--cache-budget", "1KiB") as served:
        assert served.wait() == 1
        assert served.lines[-1].startswith("Error: cache_budget is 1024 bytes, but the cache of one scene takes")
