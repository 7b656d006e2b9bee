"""What a client cannot have, with the status and the line that it gets."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import httpx2 as httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from serve_support import BINARY, client_of, listening, png
from starlette.testclient import TestClient

from spd.runtime import Model
from spd.serve import bodies

JSON = {"Content-Type": "application/json"}
NAN = np.array([[np.nan, 1]], "<f4").tobytes()


@pytest.fixture(scope="module")
def name(client: TestClient, room: NDArray[np.uint8]) -> str:
    return str(client.post("/scenes", content=png(room)).json()["id"])


QUESTIONS: dict[str, tuple[bytes, dict[str, str], int, str]] = {
    "no JSON": (b"{points", JSON, 400, "is not JSON"),
    "deep JSON": (b"[" * 5000, JSON, 400, "is not JSON"),
    "not UTF-8": (b'{"points": "\xff"}', JSON, 400, "is not JSON"),
    "a huge number": (b'{"points": [[' + b"1" * 5000 + b", 1]]}", JSON, 400, "is not JSON"),
    "no points": (b'{"point": [[1, 2]]}', JSON, 400, 'no list "points"'),
    "a list": (b"[[1, 2]]", JSON, 400, 'no list "points"'),
    "points as text": (b'{"points": "1,2"}', JSON, 400, 'no list "points"'),
    "texts": (b'{"points": [["1", "2"]]}', JSON, 422, "are not numbers"),
    "nothing": (b'{"points": [[null, 1]]}', JSON, 422, "are not numbers"),
    "truths": (b'{"points": [[true, false]]}', JSON, 422, "are not numbers"),
    "ragged": (b'{"points": [[1, 2], [3]]}', JSON, 422, "expected [[u, v], ...]"),
    "one point": (b'{"points": [1, 2]}', JSON, 422, "have shape [2]"),
    "three numbers": (b'{"points": [[1, 2, 3]]}', JSON, 422, "have shape [1, 3]"),
    "infinite": (b'{"points": [[1e999, 2]]}', JSON, 422, "point 0 is (inf, 2.0)"),
    "outside": (b'{"points": [[1, 1], [200, 1]]}', JSON, 422, "point 1 (200, 1) is outside the image of 200 x 120"),
    "half a point": (b"1234", BINARY, 400, "has 4 bytes, expected 8 for each point"),
    "no number": (NAN, BINARY, 422, "point 0 is (nan, 1.0)"),
    "too many": (
        json.dumps({"points": [[1, 2]] * 3001}).encode(),
        JSON,
        413,
        "3001 points are asked, the limit is 3000",
    ),
    "too many bytes": (bytes(8 * 3001), BINARY, 413, "has 24008 bytes, the limit is 24000"),
    "a form": (b"points=1", {"Content-Type": "application/x-www-form-urlencoded"}, 415, "expected application/json or"),
    "no type": (b'{"points": []}', {}, 415, "is not given"),
    "compressed": (b"", {**JSON, "Content-Encoding": "gzip"}, 415, "send it without"),
}


@pytest.mark.parametrize(("body", "headers", "status", "words"), QUESTIONS.values(), ids=QUESTIONS)
def test_questions(
    client: TestClient, name: str, body: bytes, headers: dict[str, str], status: int, words: str
) -> None:
    response = client.post(f"/scenes/{name}/depth", content=body, headers=headers)
    assert response.status_code == status
    assert words in response.json()["error"]


FORM = {"Content-Type": "multipart/form-data; boundary=x"}
FORMS = (
    b'--x\r\nContent-Disposition: form-data; name="picture"; filename="a.png"\r\n\r\n\r\n--x--\r\n',
    b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\n/etc/hostname\r\n--x--\r\n',
)
IMAGES: dict[str, tuple[bytes, dict[str, str], int, str]] = {
    "nothing": (b"", {}, 422, "is empty"),
    "text": (b"hello", BINARY, 422, "is not an image but text"),
    "a path of the machine": (__file__.encode(), BINARY, 422, "is not an image but text"),
    "cut off": (png(np.zeros((90, 90, 3), np.uint8))[:-30], BINARY, 422, "damaged or cut off"),
    "a drawing": (b"<svg/>", {"Content-Type": "image/svg+xml"}, 422, "an SVG drawing"),
    "too many pixels": (png(np.zeros((300, 400, 3), np.uint8)), BINARY, 413, "400 x 300 pixels, the limit is 100000"),
    "too many bytes": (bytes(200_001), BINARY, 413, "has 200001 bytes, the limit is 200000"),
    "JSON": (b'{"path": "/etc/hostname"}', JSON, 415, "the content type is application/json, expected"),
    "compressed": (b"", {**BINARY, "Content-Encoding": "br"}, 415, "Content-Encoding"),
    "a form without boundary": (b"", {"Content-Type": "multipart/form-data"}, 400, "boundary"),
    "a form cut off": (FORMS[0][:-20], FORM, 400, "the form"),
    "a form with another file": (FORMS[0], FORM, 400, "has no file `image`"),
    "a form with a path": (FORMS[1], FORM, 400, "has no file `image`"),
}  # fmt: skip


@pytest.mark.parametrize(("body", "headers", "status", "words"), IMAGES.values(), ids=IMAGES)
def test_images(client: TestClient, body: bytes, headers: dict[str, str], status: int, words: str) -> None:
    response = client.post("/scenes", content=body, headers=headers)
    assert response.status_code == status
    assert words in response.json()["error"]


def test_a_form_whose_image_is_too_large(client: TestClient) -> None:
    for size in (200_001, 300_000):
        response = client.post("/scenes", files={"image": ("a.png", bytes(size))})
        assert response.status_code == 413


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("GET", "/scenes/unknown", 404, "there is no such scene"),
        ("DELETE", "/scenes/unknown", 404, "there is no such scene"),
        ("GET", "/scenes/unknown/grid", 404, "there is no such scene"),
        ("POST", "/scenes/unknown/depth", 404, "there is no such scene"),
        ("GET", "/scenes/../../etc/hostname", 404, "there is nothing at this address"),
        ("GET", "/scenes/..%2f..%2fetc%2fhostname", 404, "there is nothing at this address"),
        ("GET", "/nothing", 404, "see /openapi.json"),
        ("POST", "/scenes/", 404, "there is nothing at this address"),
        ("GET", "/", 404, "this server has no page"),
        ("GET", "/static/index.html", 404, "there is nothing at this address"),
        ("GET", "/scenes", 405, "GET is not answered here, expected POST"),
        ("PUT", "/scenes/unknown", 405, "PUT is not answered here"),
        ("GET", "/scenes/unknown/depth", 405, "expected POST"),
        ("OPTIONS", "/scenes", 405, "expected POST"),
    ],
)
def test_addresses(client: TestClient, method: str, path: str, status: int, words: str) -> None:
    response = client.request(method, path)
    assert response.status_code == status
    assert words in response.json()["error"]


@pytest.mark.parametrize(
    ("width", "status", "words"),
    [
        ("0", 422, "width is '0', expected a whole number"),
        ("-4", 422, "width is '-4'"),
        ("4.5", 422, "width is '4.5'"),
        ("٤", 422, "width is"),
        ("", 422, "width is ''"),
        ("9" * 5000, 422, "width is '999"),
        ("400", 413, "the grid has 400 x 240 cells, the limit is 3000"),
    ],
)
def test_grids(client: TestClient, name: str, width: str, status: int, words: str) -> None:
    response = client.get(f"/scenes/{name}/grid", params={"width": width})
    assert response.status_code == status
    assert words in response.json()["error"]


def test_a_grid_in_another_form(client: TestClient, name: str) -> None:
    assert client.get(f"/scenes/{name}/grid", headers={"Accept": "image/png"}).status_code == 406
    assert client.get(f"/scenes/{name}/grid", headers={"Accept": "text/html, */*"}).status_code == 200


def test_a_deleted_scene(client: TestClient, room: NDArray[np.uint8]) -> None:
    name = client.post("/scenes", content=png(room)).json()["id"]
    assert client.delete(f"/scenes/{name}").status_code == 204
    assert client.delete(f"/scenes/{name}").status_code == 404
    assert client.get(f"/scenes/{name}").status_code == 404


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner, max_size=4)
)


@settings(max_examples=30, deadline=None)
@given(points=st.lists(VALUES, max_size=4))
def test_whatever_the_points_are(client: TestClient, name: str, points: list[object]) -> None:
    """The hook of the client sees to it that every answer is a documented one."""
    response = client.post(f"/scenes/{name}/depth", content=json.dumps({"points": points}), headers=JSON)
    assert response.status_code in (200, 422)


@settings(max_examples=30, deadline=None)
@given(body=st.binary(max_size=200))
def test_whatever_the_file_is(client: TestClient, body: bytes) -> None:
    assert client.post("/scenes", content=body).status_code == 422


def test_a_body_without_length_is_read_no_further_than_allowed(load: Callable[..., Model]) -> None:
    """Over a socket: the client may go on to send, and its next question on the same connection is answered."""
    sent = 0

    def pieces() -> object:
        nonlocal sent
        for _ in range(64):
            sent += 1 << 16
            yield bytes(1 << 16)

    with listening(load, max_upload=100_000) as (url, _), httpx.Client(base_url=url) as http:
        response = http.post("/scenes", content=pieces(), headers=BINARY)
        assert response.status_code == 413
        assert response.json()["error"] == "the image has more than 100000 bytes, the limit"
        assert http.get("/healthz").json() == {"status": "ok"}


def test_a_body_that_does_not_arrive(load: Callable[..., Model], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "RECEIVE_SECONDS", 0.2)
    with listening(load) as (url, service):
        with socket.create_connection((urlsplit(url).hostname, urlsplit(url).port)) as slow:
            slow.sendall(b"POST /scenes HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nab")
            answer = slow.recv(4096)
        assert b" 408 " in answer.splitlines()[0]
        assert service.work.taken == 0


def test_scenes_beyond_the_limit(load: Callable[..., Model], room: NDArray[np.uint8]) -> None:
    with client_of(load, max_scenes=2) as client:
        names = [client.post("/scenes", content=png(room)).json()["id"] for _ in range(2)]
        refused = client.post("/scenes", content=png(room))
        assert refused.status_code == 429
        assert "holds 2 scenes, its most" in refused.json()["error"]
        assert int(refused.headers["Retry-After"]) > 0
        client.delete(f"/scenes/{names[0]}")
        assert client.post("/scenes", content=png(room)).status_code == 201


def test_the_folder_of_the_page_only(load: Callable[..., Model], tmp_path: Path) -> None:
    (tmp_path / "page").mkdir()
    (tmp_path / "page/index.html").write_text("<p>page", encoding="utf-8")
    (tmp_path / "page/app.js").write_text("1", encoding="utf-8")
    (tmp_path / "secret").write_text("secret", encoding="utf-8")
    (tmp_path / "page/link").symlink_to(tmp_path / "secret")
    with client_of(load, page=tmp_path / "page") as client:
        assert client.get("/").text == "<p>page"
        assert client.get("/static/app.js").text == "1"
        for path in ("../secret", "..%2fsecret", "%2e%2e/secret", "link", "/etc/hostname", "%2fetc%2fhostname", ""):
            response = client.get(f"/static/{path}")
            assert response.status_code == 404, path
