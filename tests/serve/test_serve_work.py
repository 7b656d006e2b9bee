"""Only so many requests at once, and no work for clients that went away; over real sockets."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import httpx2 as httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from serve_support import listening, png, wait_until

from spd.errors import SPDError
from spd.runtime import Stats
from spd.serve.service import Service


class Scene:
    """Encoded by `Blocked`."""

    def __init__(self, model: Blocked) -> None:
        self.width = self.height = 8
        self.model = model
        model.scenes += 1

    def wait(self) -> None:
        pass

    def close(self) -> None:
        pass

    def depth(self, points: Any) -> NDArray[np.float32]:
        return np.zeros(len(points), np.float32)

    def __del__(self) -> None:
        self.model.scenes -= 1


class Blocked:
    """A model whose encoder waits until a test lets it go on; images are known by the grey of their first pixel."""

    size, manifest, backend, precision = (8, 8), None, "torch", "fp32"

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.begun: list[int] = []
        self.scenes = 0

    def encode(self, image: Any) -> Scene:
        self.begun.append(image.getpixel((0, 0))[0])
        assert self.go_on.wait(30)
        return Scene(self)

    def warm_up(self) -> None:
        pass

    def stats(self) -> Stats:
        return Stats(0, 0, 0, None, 0, 0)

    def close(self) -> None:
        pass


@pytest.fixture
def model() -> Blocked:
    return Blocked()


@pytest.fixture
def served(model: Blocked) -> Iterator[tuple[str, Service]]:
    """One worker, and two places to wait."""
    with listening(lambda: model, workers=1, queue=2) as (url, service):  # type: ignore[arg-type,return-value]
        try:
            yield url, service
        finally:
            model.go_on.set()


def photo(grey: int) -> bytes:
    return png(np.full((8, 8, 3), grey, np.uint8))


def send_and_stay(url: str, grey: int) -> socket.socket:
    """A client that has sent a photo, and waits."""
    address, body = urlsplit(url), photo(grey)
    client = socket.create_connection((address.hostname, address.port))
    client.sendall(b"POST /scenes HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    return client


def test_more_requests_than_places(served: tuple[str, Service], model: Blocked) -> None:
    url, service = served
    with ThreadPoolExecutor(3) as clients, httpx.Client(base_url=url) as http:
        asked = [clients.submit(httpx.post, f"{url}/scenes", content=photo(grey)) for grey in range(3)]
        wait_until(lambda: (service.work.running, service.work.waiting) == (1, 2))
        refused = http.post("/scenes", content=photo(9))
        assert refused.status_code == 429
        assert refused.json()["error"] == "the server is busy: 3 requests are being answered; ask again later"
        assert int(refused.headers["Retry-After"]) > 0
        assert http.get("/healthz").status_code == 200  # what costs nothing is still answered
        assert "spd_work_waiting 2.0" in http.get("/metrics").text
        model.go_on.set()
        assert [each.result().status_code for each in asked] == [201] * 3
        assert http.post("/scenes", content=photo(9)).status_code == 201
    assert (service.work.taken, service.work.running, service.work.waiting) == (0, 0, 0)


def test_a_client_that_goes_away_while_it_waits(served: tuple[str, Service], model: Blocked) -> None:
    url, service = served
    with send_and_stay(url, 1):
        wait_until(lambda: model.begun == [1])
        with send_and_stay(url, 2), send_and_stay(url, 3):
            wait_until(lambda: service.work.waiting == 2)
        wait_until(lambda: service.work.taken == 1)  # their places are free at once
        assert service.work.waiting == 0
        model.go_on.set()
        assert httpx.post(f"{url}/scenes", content=photo(4)).status_code == 201
    assert model.begun == [1, 4]


def test_a_client_that_goes_away_while_its_image_is_encoded(served: tuple[str, Service], model: Blocked) -> None:
    url, service = served
    with send_and_stay(url, 1):
        wait_until(lambda: model.begun == [1])
    assert httpx.get(f"{url}/healthz").status_code == 200
    assert service.work.taken == 1, "the thread is not free before the encoder ends"
    model.go_on.set()
    wait_until(lambda: service.work.taken == 0)
    wait_until(lambda: model.scenes == 0)
    assert len(service.scenes) == 0, "nobody knows its id"
    wait_until(lambda: 'route="/scenes",status="499"} 1.0' in httpx.get(f"{url}/metrics").text)


def test_a_client_that_goes_away_while_it_sends(served: tuple[str, Service], model: Blocked) -> None:
    url, service = served
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port)) as client:
        client.sendall(b"POST /scenes HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nab")
        wait_until(lambda: service.work.taken == 1)
    wait_until(lambda: service.work.taken == 0)
    assert model.begun == []


def test_a_scene_that_is_deleted_while_it_is_asked(
    served: tuple[str, Service], model: Blocked, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, _ = served
    model.go_on.set()
    name = httpx.post(f"{url}/scenes", content=photo(1)).json()["id"]
    asked, deleted = threading.Event(), threading.Event()

    def closed(*_: Any) -> None:
        asked.set()
        assert deleted.wait(30)
        raise SPDError("the scene is closed; encode the image again")

    monkeypatch.setattr(Scene, "depth", closed)
    with ThreadPoolExecutor(1) as client:
        answer = client.submit(httpx.post, f"{url}/scenes/{name}/depth", json={"points": [[1, 1]]})
        assert asked.wait(30)
        assert httpx.delete(f"{url}/scenes/{name}").status_code == 204
        deleted.set()
        assert answer.result().status_code == 404
