"""What each address answers."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from spd.errors import PointsError, SPDError
from spd.images import read_header, read_image
from spd.runtime import Model, Scene
from spd.serve.bodies import BINARY, content_type, parse_points, read_image_file, read_points_body
from spd.serve.openapi import openapi
from spd.serve.scenes import Entry
from spd.serve.service import STOPPING, Service, is_demo
from spd.version import __version__

IMAGE = "the image"
GRID_WIDTH = 64


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


async def create_scene(request: Request) -> Response:
    """Encode an image."""
    service = _service(request)
    model, limits = service.model, service.settings
    with service.work.place():
        service.scenes.check_room()
        data = await read_image_file(request, limits.max_upload)
        work = partial(_encoded, service, model, data)
        scene, focal_px, ms = await service.work.run(request, work)
    name = service.scenes.add(scene, focal_px)
    body = {"id": name, "width": scene.width, "height": scene.height, "encode_ms": ms, "focal_px": focal_px}
    return JSONResponse(body, 201, {"Location": f"/scenes/{name}"})


def _encoded(service: Service, model: Model, data: bytes) -> tuple[Scene, float | None, float]:
    """The scene of an image file, its focal length in pixels, and how long the encoder took, milliseconds."""
    header, most = read_header(data, IMAGE), service.settings.max_pixels
    if header.width * header.height > most:
        size = f"{header.width} x {header.height} pixels"
        raise HTTPException(413, f"{IMAGE} has {size}, the limit is {most}; resize it first")
    with service.metrics.stage("decode"):
        image = read_image(data, IMAGE)
    with service.metrics.stage("encode") as stage:
        scene = model.encode(image)
        scene.wait()
    return scene, header.focal_px, stage.ms


async def get_scene(request: Request) -> Response:
    """What is known of a scene."""
    entry = _service(request).scenes.get(request.path_params["id"])
    name, scene = request.path_params["id"], entry.scene
    return JSONResponse(
        {"id": name, "width": scene.width, "height": scene.height, "focal_px": entry.focal_px},
    )


async def delete_scene(request: Request) -> Response:
    """Close a scene."""
    _service(request).scenes.delete(request.path_params["id"])
    return Response(status_code=204)


async def ask_depth(request: Request) -> Response:
    """Depth at points of a scene."""
    service = _service(request)
    entry, most, kind = (
        service.scenes.get(request.path_params["id"]),
        service.settings.max_points,
        content_type(request),
    )
    with service.work.place():
        body = await read_points_body(request, most)
        work = partial(_answer, service, entry, lambda: parse_points(body, kind, most), kind == BINARY)
        return await _asked(request, service, work)


async def ask_grid(request: Request) -> Response:
    """Depth at the centres of a grid's cells."""
    service = _service(request)
    entry = service.scenes.get(request.path_params["id"])
    size = _grid_size(request, entry.scene, service.settings.max_points)
    accepted = request.headers.get("accept", "*/*")
    binary = BINARY in accepted
    if not (binary or any(kind in accepted for kind in ("*/*", "application/*", "application/json"))):
        raise HTTPException(406, f"the answer is application/json or {BINARY}, but Accept is {accepted[:80]}")
    with service.work.place():
        work = partial(_answer, service, entry, lambda: _cell_centres(size, entry.scene), binary, size)
        return await _asked(request, service, work)


async def _asked(request: Request, service: Service, work: partial[Response]) -> Response:
    """The answer of a scene, unless it is closed meanwhile."""
    name = request.path_params["id"]
    try:
        response = await service.work.run(request, work)
    except PointsError:
        raise
    except SPDError:
        if name not in service.scenes:
            service.scenes.refuse(name)
        raise
    return response


def _answer(service: Service, entry: Entry, points: Any, binary: bool, grid: tuple[int, int] | None = None) -> Response:
    """The response to a question; runs on a thread, since a large one takes time to read and write too."""
    asked = points()
    with service.metrics.stage("depth") as stage:
        depth = entry.scene.depth(asked)
    if binary:
        headers = {"Server-Timing": f"depth;dur={stage.ms}"}
        if grid is not None:
            headers["X-Grid"] = f"{grid[0]} {grid[1]}"
        return Response(depth.astype("<f4", copy=False).tobytes(), 200, headers, BINARY)
    if grid is None:
        return JSONResponse({"depth": depth.tolist(), "ms": stage.ms})
    width, height = grid
    rows = depth.reshape(height, width).tolist()
    return JSONResponse({"width": width, "height": height, "depth": rows, "ms": stage.ms})


def _grid_size(request: Request, scene: Scene, most: int) -> tuple[int, int]:
    """Width and height of the grid that is asked for, cells about as high as wide."""
    text = request.query_params.get("width", str(GRID_WIDTH))
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) > 0):
        raise HTTPException(422, f"width is {text[:40]!r}, expected a whole number of cells such as {GRID_WIDTH}")
    width = int(text)
    height = max(1, round(width * scene.height / scene.width))
    if width * height > most:
        raise HTTPException(413, f"the grid has {width} x {height} cells, the limit is {most}; ask for a smaller width")
    return width, height


def _cell_centres(size: tuple[int, int], scene: Scene) -> NDArray[np.float64]:
    """Points (u, v) [height * width, 2], row by row."""
    width, height = size
    u = (np.arange(width) + 0.5) * scene.width / width
    v = (np.arange(height) + 0.5) * scene.height / height
    return np.stack(np.meshgrid(u, v), axis=-1).reshape(-1, 2)


async def info(request: Request) -> Response:
    """What runs here, and its limits."""
    service = _service(request)
    model, limits = service.model, service.settings
    manifest = model.manifest
    return JSONResponse(
        {
            "name": None if manifest is None else manifest.name,
            "preset": None if manifest is None else manifest.preset,
            "height": model.size[0],
            "width": model.size[1],
            "backend": model.backend,
            "precision": model.precision,
            "demo": is_demo(manifest),
            "max_points": limits.max_points,
            "max_pixels": limits.max_pixels,
            "max_upload_bytes": limits.max_upload,
            "version": __version__,
        }
    )


async def healthz(_: Request) -> Response:
    """Whether the process answers."""
    return JSONResponse({"status": "ok"})


async def readyz(request: Request) -> Response:
    """Whether images are taken: 503 until the model is loaded, and when the server is to end."""
    service = _service(request)
    if service.stopping:
        raise HTTPException(503, STOPPING, {"Retry-After": "1"})
    return JSONResponse({"status": "ready", "backend": service.model.backend})


async def metrics(request: Request) -> Response:
    """Counts and times for Prometheus."""
    return Response(_service(request).metrics.text(), media_type=CONTENT_TYPE_LATEST)


async def describe(request: Request) -> Response:
    """What all addresses answer, in OpenAPI."""
    return JSONResponse(openapi(_service(request).settings))


async def page(request: Request) -> Response:
    """The page."""
    folder = _service(request).settings.page
    if folder is None or not (folder / "index.html").is_file():
        raise HTTPException(404, "this server has no page; see /openapi.json for what it answers")
    return FileResponse(folder / "index.html")
