"""Every answer is what `scene.depth` gives."""

from __future__ import annotations

import io
import re
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import ExifTags, Image
from serve_support import BINARY, PATHS, png
from starlette.routing import Route
from starlette.testclient import TestClient

from spd.runtime import Model
from spd.serve.app import routes
from spd.serve.service import Service
from spd.serve.settings import Settings
from spd.version import __version__


@pytest.fixture(scope="module")
def name(client: TestClient, room: NDArray[np.uint8]) -> str:
    """The id of the room."""
    return str(client.post("/scenes", content=png(room), headers={"Content-Type": "image/png"}).json()["id"])


def test_a_scene_from_the_body_and_from_a_form(client: TestClient, room: NDArray[np.uint8]) -> None:
    raw = client.post("/scenes", content=png(room), headers=BINARY)
    form = client.post("/scenes", files={"image": ("photo.png", png(room))}, data={"comment": "x"})
    nameless = client.post("/scenes", content=png(room))
    assert [response.status_code for response in (raw, form, nameless)] == [201, 201, 201]
    for made in (raw.json(), form.json(), nameless.json()):
        assert (made["width"], made["height"], made["focal_px"]) == (200, 120, None)
        assert made["encode_ms"] > 0
        asked = client.get(f"/scenes/{made['id']}").json()
        assert asked == {key: made[key] for key in ("id", "width", "height", "focal_px")}
    assert raw.headers["Location"] == f"/scenes/{raw.json()['id']}"


def test_ids_cannot_be_guessed(client: TestClient, room: NDArray[np.uint8]) -> None:
    names = {client.post("/scenes", content=png(room)).json()["id"] for _ in range(5)}
    assert len(names) == 5
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{22}", name) for name in names)  # 128 bits
    assert len({name[:4] for name in names}) == 5


def test_depths(
    client: TestClient, name: str, model: Model, room: NDArray[np.uint8], points: NDArray[np.float32]
) -> None:
    expected = model.encode(room).depth(points)
    json = client.post(f"/scenes/{name}/depth", json={"points": points.tolist()})
    binary = client.post(f"/scenes/{name}/depth", content=points.astype("<f4").tobytes(), headers=BINARY)
    np.testing.assert_array_equal(np.array(json.json()["depth"], np.float32), expected)
    np.testing.assert_array_equal(np.frombuffer(binary.content, "<f4"), expected)
    assert json.json()["ms"] > 0
    assert re.fullmatch(r"depth;dur=[0-9.]+", binary.headers["Server-Timing"])
    assert binary.headers["Content-Type"] == "application/octet-stream"


def test_more_points_than_the_decoder_takes_at_once(
    client: TestClient, name: str, model: Model, room: NDArray[np.uint8]
) -> None:
    points = np.random.default_rng(2).random((1100, 2)) * (200, 120)
    assert model.manifest is not None
    assert model.manifest.max_points < 1100
    answer = client.post(f"/scenes/{name}/depth", json={"points": points.tolist()})
    np.testing.assert_array_equal(np.float32(answer.json()["depth"]), model.encode(room).depth(points))


def test_no_points(client: TestClient, name: str) -> None:
    assert client.post(f"/scenes/{name}/depth", json={"points": []}).json()["depth"] == []
    assert client.post(f"/scenes/{name}/depth", content=b"", headers=BINARY).content == b""


@pytest.mark.parametrize(("width", "height"), [(1, 1), (4, 2), (30, 18)])
def test_grid(client: TestClient, name: str, model: Model, room: NDArray[np.uint8], width: int, height: int) -> None:
    centres = [((i + 0.5) * 200 / width, (j + 0.5) * 120 / height) for j in range(height) for i in range(width)]
    expected = model.encode(room).depth(centres).reshape(height, width)
    json = client.get(f"/scenes/{name}/grid", params={"width": width})
    binary = client.get(f"/scenes/{name}/grid", params={"width": width}, headers={"Accept": BINARY["Content-Type"]})
    assert (json.json()["width"], json.json()["height"]) == (width, height)
    np.testing.assert_array_equal(np.array(json.json()["depth"], np.float32), expected)
    assert binary.headers["X-Grid"] == f"{width} {height}"
    np.testing.assert_array_equal(np.frombuffer(binary.content, "<f4").reshape(height, width), expected)


def test_a_grid_has_64_columns_unless_asked(client: TestClient, name: str) -> None:
    grid = client.get(f"/scenes/{name}/grid").json()
    assert (grid["width"], grid["height"]) == (64, 38)


def test_a_photo_that_lies_on_its_side(client: TestClient, model: Model, room: NDArray[np.uint8]) -> None:
    """Size and points are those of the photo as shown, and the focal length is that of the camera."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = 26
    file = io.BytesIO()
    Image.fromarray(room).save(file, "JPEG", exif=exif)
    made = client.post("/scenes", content=file.getvalue(), headers={"Content-Type": "image/jpeg"}).json()
    assert (made["width"], made["height"]) == (120, 200)
    # A 35 mm frame is 36 x 24 mm; the equivalent is by the diagonal.
    assert made["focal_px"] == pytest.approx(26 * (200**2 + 120**2) ** 0.5 / (36**2 + 24**2) ** 0.5, rel=1e-9)
    points = [[10.0, 190.0], [119.5, 0.0]]
    answer = client.post(f"/scenes/{made['id']}/depth", json={"points": points}).json()["depth"]
    np.testing.assert_array_equal(np.float32(answer), model.encode(file.getvalue()).depth(points))


def test_info(client: TestClient, model: Model) -> None:
    assert model.manifest is not None
    assert client.get("/info").json() == {
        "name": model.manifest.name,
        "preset": "atto",
        "height": 160,
        "width": 192,
        "backend": "onnxruntime-cpu",
        "precision": "fp32",
        "demo": True,
        "max_points": 3000,
        "max_pixels": 100_000,
        "max_upload_bytes": 200_000,
        "version": __version__,
    }


def test_the_description_has_every_address(client: TestClient, load: Callable[..., Model]) -> None:
    found = {
        (route.path, method.lower())
        for route in routes(Service(Settings(), load))
        if isinstance(route, Route) and route.methods is not None
        for method in route.methods - {"HEAD"}
    }
    described = {(path, method) for path, methods in PATHS.items() for method in methods if method != "parameters"}
    assert described == found
    document = client.get("/openapi.json").json()
    assert document["paths"].keys() == PATHS.keys()
    assert document["paths"]["/scenes"]["post"]["requestBody"]["content"]["image/*"]["schema"]["maxLength"] == 200_000


def test_every_reference_of_the_description_is_there(client: TestClient) -> None:
    document = client.get("/openapi.json")
    names = set(re.findall(r'"#/components/schemas/(\w+)"', document.text))
    assert names == set(document.json()["components"]["schemas"])
