"""The interface in OpenAPI 3.1. Kept by hand; a test compares it with the routes and with every answer it gets."""

from __future__ import annotations

from typing import Any

from spd.serve.settings import Settings
from spd.version import __version__

JSON, BINARY = "application/json", "application/octet-stream"
ERROR = {JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}
REFUSALS = {
    400: "The body is damaged.",
    404: "There is no such scene.",
    406: "No such form of answer.",
    408: "The body did not arrive in time.",
    410: "The scene is gone: evicted, or not asked for a while.",
    413: "The body, the image, the points or the grid are too large.",
    415: "The content type is another one than expected.",
    422: "The image or the points cannot be used.",
    429: "The server is busy or full. See Retry-After.",
    500: "The model failed, or a mistake in the server.",
    503: "The model is being loaded, the device's memory is full, or the server is stopping. See Retry-After.",
}


def openapi(settings: Settings) -> dict[str, Any]:
    """The document for a server with these limits."""
    scene_id = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "spd-serve",
            "version": __version__,
            "description": "Metric depth at chosen pixels of a photo. Points are (u, v) in pixels of the image as "
            "shown: u to the right, v down, (0, 0) is the upper left corner, the centre of the first pixel is "
            "(0.5, 0.5). Depths are metres.",
        },
        "paths": {
            "/scenes": {"post": _create_scene(settings)},
            "/scenes/{id}": {
                "parameters": [scene_id],
                "get": _operation("What is known of a scene", 200, _ref("Scene"), (404, 410)),
                "delete": _operation("Close a scene", 204, None, (404, 410)),
            },
            "/scenes/{id}/depth": {"parameters": [scene_id], "post": _ask_depth(settings)},
            "/scenes/{id}/grid": {"parameters": [scene_id], "get": _ask_grid(settings)},
            "/info": {"get": _operation("What runs here, and its limits", 200, _ref("Info"), (503,))},
            "/healthz": {"get": _operation("Whether the process answers", 200, {"type": "object"})},
            "/readyz": {"get": _operation("Whether images are taken", 200, {"type": "object"}, (503,))},
            "/metrics": {"get": _text("Counts and times for Prometheus", "text/plain")},
            "/openapi.json": {"get": _operation("This document", 200, {"type": "object"})},
            "/": {"get": _text("A page to click on", "text/html", (404,))},
        },
        "components": {"schemas": SCHEMAS},
    }


def _create_scene(settings: Settings) -> dict[str, Any]:
    binary = {"schema": {"type": "string", "format": "binary", "maxLength": settings.max_upload}}
    form = {"type": "object", "required": ["image"], "properties": {"image": binary["schema"]}}
    made = _operation("Encode an image", 201, _ref("NewScene"), (400, 408, 413, 415, 422, 429, 500, 503))
    made["requestBody"] = {
        "required": True,
        "description": f"An image file of at most {settings.max_upload} bytes and {settings.max_pixels} pixels.",
        "content": {"image/*": binary, BINARY: binary, "multipart/form-data": {"schema": form}},
    }
    return made


def _ask_depth(settings: Settings) -> dict[str, Any]:
    points = {"type": "array", "items": _ref("Point"), "maxItems": settings.max_points}
    asked = _operation("Depth at points", 200, _ref("Depths"), (400, 404, 408, 410, 413, 415, 422, 429, 500, 503))
    asked["requestBody"] = {
        "required": True,
        "description": f"At most {settings.max_points} points; in binary float32 [K, 2], little-endian.",
        "content": {
            JSON: {"schema": {"type": "object", "required": ["points"], "properties": {"points": points}}},
            BINARY: {"schema": {"type": "string", "format": "binary"}},
        },
    }
    asked["responses"]["200"] |= _also_binary(
        "Depths in the form of the question; in binary float32 [K], little-endian.", "Server-Timing"
    )
    return asked


def _ask_grid(settings: Settings) -> dict[str, Any]:
    asked = _operation("Depth at the cells of a grid", 200, _ref("Grid"), (404, 406, 410, 413, 422, 429, 500, 503))
    width = {"type": "integer", "minimum": 1, "default": 64}
    asked["parameters"] = [
        {
            "name": "width",
            "in": "query",
            "description": f"Cells in a row; the grid has at most {settings.max_points}. Of an image of W x H pixels, "
            "cell (i, j) of a grid of w x h is asked at its centre ((i + 0.5) * W / w, (j + 0.5) * H / h).",
            "schema": width,
        }
    ]
    asked["responses"]["200"] |= _also_binary(
        "Depths by Accept; in binary float32 [h, w], little-endian, and w and h in X-Grid.", "Server-Timing", "X-Grid"
    )
    return asked


def _also_binary(text: str, *headers: str) -> dict[str, Any]:
    return {"description": text, "headers": {name: {"schema": {"type": "string"}} for name in headers}}


def _operation(
    summary: str, status: int, schema: dict[str, Any] | None, refusals: tuple[int, ...] = ()
) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": summary}
    if schema is not None:
        answer["content"] = {JSON: {"schema": schema}}
        if schema.get("$ref", "").rpartition("/")[2] in ("Depths", "Grid"):
            answer["content"][BINARY] = {"schema": {"type": "string", "format": "binary"}}
    refused = {str(code): {"description": REFUSALS[code], "content": ERROR} for code in refusals}
    return {"summary": summary, "responses": {str(status): answer, **refused}}


def _text(summary: str, kind: str, refusals: tuple[int, ...] = ()) -> dict[str, Any]:
    found = _operation(summary, 200, None, refusals)
    found["responses"]["200"]["content"] = {kind: {"schema": {"type": "string"}}}
    return found


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": properties}


TEXT, WHOLE, NUMBER = {"type": "string"}, {"type": "integer"}, {"type": "number"}
OR_NULL = {"type": ["number", "null"], "description": "Focal length in pixels, as EXIF says."}
DEPTHS = {"type": "array", "items": NUMBER, "description": "Metres, in the order of the points."}
MS = {"type": "number", "description": "Milliseconds on the server, for the depths alone."}
SCHEMAS = {
    "Error": _object(error={"type": "string", "description": "One line: what was wrong, and what to do."}),
    "Point": {"type": "array", "items": NUMBER, "minItems": 2, "maxItems": 2},
    "Scene": _object(id=TEXT, width=WHOLE, height=WHOLE, focal_px=OR_NULL),
    "NewScene": _object(id=TEXT, width=WHOLE, height=WHOLE, encode_ms=NUMBER, focal_px=OR_NULL),
    "Depths": _object(depth=DEPTHS, ms=MS),
    "Grid": _object(width=WHOLE, height=WHOLE, depth={"type": "array", "items": DEPTHS}, ms=MS),
    "Info": _object(
        name={"type": ["string", "null"]},
        preset={"type": ["string", "null"]},
        height=WHOLE,
        width=WHOLE,
        backend=TEXT,
        precision=TEXT,
        demo={"type": "boolean", "description": "Whether the weights only show how it works."},
        max_points=WHOLE,
        max_pixels=WHOLE,
        max_upload_bytes=WHOLE,
        version=TEXT,
    ),
}
