"""How long scenes live, from the loading of the model to the server's end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client.parser import text_string_to_metric_families
from serve_support import client_of, png, wait_until
from starlette.testclient import TestClient

from spd.errors import BackendError, DeviceMemoryError
from spd.runtime import Model, Stats
from spd.runtime.backend import cache_nbytes
from spd.serve.app import make_app
from spd.serve.service import Service
from spd.serve.settings import Settings

Load = Callable[..., Model]


def budget_for(model: Model, scenes: int) -> int:
    """Bytes that the caches of so many scenes take."""
    assert model.manifest is not None
    return cache_nbytes(model.manifest.contract, "fp32") * scenes


def send(client: TestClient, image: NDArray[np.uint8]) -> str:
    return str(client.post("/scenes", content=png(image)).json()["id"])


def test_a_scene_that_nobody_asks_is_closed(load: Load, room: NDArray[np.uint8]) -> None:
    with client_of(load, idle_seconds=0.6) as client:
        asked, idle = send(client, room), send(client, room)
        end = time.monotonic() + 1.2
        while time.monotonic() < end:
            assert client.get(f"/scenes/{asked}").status_code == 200
            time.sleep(0.02)
        gone = client.post(f"/scenes/{idle}/depth", json={"points": [[1, 1]]})
        assert gone.status_code == 410
        assert gone.json()["error"] == "the scene is gone: it was not asked for 0.6 seconds; send its image again"
        assert 'spd_scenes_closed_total{reason="idle"} 1.0' in client.get("/metrics").text
        assert "spd_scenes 1.0" in client.get("/metrics").text


@pytest.mark.parametrize("on_evicted", ["410", "encode"])
def test_scenes_beyond_the_cache_budget(load: Load, model: Model, room: NDArray[np.uint8], on_evicted: str) -> None:
    question = {"points": [[20.5, 30.5]]}
    expected = float(model.encode(room).depth(question["points"])[0])
    with client_of(lambda: load(budget_for(model, 2)), on_evicted=on_evicted) as client:
        first, second = send(client, room), send(client, room)
        assert client.post(f"/scenes/{first}/depth", json=question).status_code == 200
        third = send(client, room)  # the second was asked least recently
        answers = {name: client.post(f"/scenes/{name}/depth", json=question) for name in (first, third, second)}
        if on_evicted == "410":
            assert [answer.status_code for answer in answers.values()] == [200, 200, 410]
            assert "had to make room for newer ones" in answers[second].json()["error"]
            assert client.get(f"/scenes/{second}").status_code == 410
        else:
            assert [answer.json()["depth"] for answer in answers.values()] == [[expected]] * 3
            assert "spd_scenes 3.0" in client.get("/metrics").text
            assert "spd_evictions_total 2.0" in client.get("/metrics").text


def test_until_the_model_is_loaded(load: Load, room: NDArray[np.uint8]) -> None:
    may_load = threading.Event()

    def slowly() -> Model:
        may_load.wait()
        return load()

    service = Service(Settings(), slowly)
    with TestClient(make_app(service)) as client:
        try:
            for response in (client.get("/readyz"), client.get("/info"), client.post("/scenes", content=png(room))):
                assert response.status_code == 503
                assert response.json()["error"] == "the model is being loaded; ask again later"
                assert int(response.headers["Retry-After"]) > 0
            assert client.get("/healthz").status_code == 200
        finally:
            may_load.set()
        wait_until(lambda: service.ready)
        assert client.get("/readyz").json() == {"status": "ready", "backend": "onnxruntime-cpu"}
        service.stopping = True
        assert client.get("/readyz").status_code == 503


def test_a_model_that_cannot_be_loaded() -> None:
    def refuse() -> Model:
        raise BackendError("no such thing")

    service, told = Service(Settings(), refuse), threading.Event()
    service.on_failure = told.set
    with TestClient(make_app(service)) as client:
        assert told.wait(10)
        assert client.get("/readyz").status_code == 503
    assert str(service.failure) == "no such thing"


def test_all_is_given_back_in_the_end(load: Load, room: NDArray[np.uint8]) -> None:
    loaded: list[Model] = []

    def kept() -> Model:
        loaded.append(load())
        return loaded[0]

    service = Service(Settings(), kept)
    with TestClient(make_app(service)) as client:
        wait_until(lambda: service.ready)
        entry = service.scenes.get(send(client, room))
    assert len(service.scenes) == 0
    assert "closed" in repr(entry.scene)
    with pytest.raises(Exception, match="the model is closed"):
        loaded[0].encode(room)


class Failing:
    """A model whose encoder fails."""

    size, manifest, backend, precision = (32, 32), None, "torch", "fp32"

    def __init__(self, error: Exception) -> None:
        self.error = error

    def warm_up(self) -> None:
        pass

    def encode(self, _: Any) -> Any:
        raise self.error

    def stats(self) -> Stats:
        return Stats(0, 0, 0, None, 0, 0)

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (DeviceMemoryError("the GPU is full\nand more"), 503, "the GPU is full"),
        (BackendError("the encoder failed"), 500, "the encoder failed"),
        (RuntimeError("a secret"), 500, "a mistake in the server; its log says which"),
        (MemoryError(), 503, "the memory is full; ask again later"),
    ],
    ids=repr,
)
def test_a_model_that_fails(
    error: Exception, status: int, line: str, room: NDArray[np.uint8], caplog: pytest.LogCaptureFixture
) -> None:
    with client_of(lambda: Failing(error)) as client:  # type: ignore[arg-type,return-value]
        response = client.post("/scenes", content=png(room))
        assert response.status_code == status
        assert response.json() == {"error": line}
        assert ("Retry-After" in response.headers) == (status == 503)
        assert client.get("/healthz").headers["X-Content-Type-Options"] == "nosniff"
        assert "spd_requests_held 0.0" in client.get("/metrics").text


def test_headers_of_every_answer(client: TestClient) -> None:
    for path in ("/info", "/nothing", "/metrics", "/scenes/x"):
        headers = client.get(path, headers={"Origin": "https://example.org"}).headers
        assert headers["Content-Security-Policy"].startswith("default-src 'self';")
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert not any(name.startswith("access-control") for name in headers)


def test_other_sites_only_if_asked(load: Load, room: NDArray[np.uint8]) -> None:
    with client_of(load, cors=("https://example.org",)) as client:
        theirs = client.post("/scenes", content=png(room), headers={"Origin": "https://example.org"})
        assert theirs.headers["Access-Control-Allow-Origin"] == "https://example.org"
        refused = client.get("/scenes/x", headers={"Origin": "https://example.org"})
        assert refused.headers["Access-Control-Allow-Origin"] == "https://example.org"
        other = client.get("/info", headers={"Origin": "https://example.com"})
        assert "Access-Control-Allow-Origin" not in other.headers


def test_metrics(load: Load, model: Model, room: NDArray[np.uint8]) -> None:
    with client_of(load) as client:
        name = send(client, room)
        for _ in range(3):
            client.post(f"/scenes/{name}/depth", json={"points": [[1, 1]]})
        client.post(f"/scenes/{name}/depth", json={"points": [[-1, 1]]})
        client.request("BREW", "/scenes")
        answer = client.get("/metrics")
        assert answer.headers["Content-Type"].startswith("text/plain")
        families = text_string_to_metric_families(answer.text)
        samples = {(s.name, tuple(s.labels.values())): s.value for family in families for s in family.samples}
    assert samples["spd_stage_seconds_count", ("decode",)] == 1
    assert samples["spd_stage_seconds_count", ("encode",)] == 1
    assert samples["spd_stage_seconds_count", ("depth",)] == 3
    assert samples["spd_stage_seconds_sum", ("encode",)] > 0
    assert samples["spd_requests_total", ("POST", "/scenes", "201")] == 1
    assert samples["spd_requests_total", ("POST", "/scenes/{id}/depth", "200")] == 3
    assert samples["spd_requests_total", ("POST", "/scenes/{id}/depth", "422")] == 1
    assert samples["spd_requests_total", ("other", "/scenes", "405")] == 1
    assert samples["spd_scenes", ()] == 1
    assert samples["spd_caches", ()] == 1
    assert samples["spd_cache_bytes", ()] == budget_for(model, 1)
    assert samples["spd_encodings_total", ()] == 1 + 3, "the server's first ones are counted by the model"
    assert samples["spd_evictions_total", ()] == 0
    for name in ("spd_requests_held", "spd_work_waiting", "spd_work_running"):
        assert samples[name, ()] == 0
