"""What clients send, read no further than allowed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from spd.errors import PointsError, one_line

Body = TypeVar("Body")

RECEIVE_SECONDS = 60
"""How long a client may take to send a body, since it has a place meanwhile."""
FORM_OVERHEAD = 1 << 16
"""Bytes of a form beyond the image in it."""
JSON_BYTES_PER_POINT = 64
"""Two float64 with all their digits take 48."""

JSON, BINARY, FORM = "application/json", "application/octet-stream", "multipart/form-data"


def content_type(request: Request) -> str:
    """What the client calls its body, without parameters; empty if it does not say."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_image_file(request: Request, limit: int) -> bytes:
    """The image file of a request: its whole body, or the field `image` of a form.

    Raises:
        HTTPException: it has more than `limit` bytes, is of another content type, or takes too long.
        ClientDisconnect: the client went away.
    """
    kind = content_type(request)
    if kind == FORM:
        return await _in_time(_image_of_form(request, limit))
    if kind and kind != BINARY and not kind.startswith("image/"):
        line = f"the content type is {kind}, expected image/jpeg or another image, {BINARY}, or {FORM} with image=@FILE"
        raise HTTPException(415, line)
    return await _in_time(_joined(_bounded(request, limit, "the image")))


async def read_points_body(request: Request, most: int) -> bytes:
    """The body of a question, as JSON or binary; `parse_points` reads it.

    Raises:
        HTTPException: it is longer than `most` points take, is of another content type, or takes too long.
        ClientDisconnect: the client went away.
    """
    kind = content_type(request)
    if kind not in (JSON, BINARY):
        raise HTTPException(415, f"the content type is {kind or 'not given'}, expected {JSON} or {BINARY}")
    limit = 8 * most if kind == BINARY else JSON_BYTES_PER_POINT * (most + 1)
    return await _in_time(_joined(_bounded(request, limit, f"the question, of {most} points at most,")))


def parse_points(body: bytes, kind: str, most: int) -> NDArray[Any]:
    """The points of a question: numbers of any shape, since the scene checks the rest.

    Args:
        body: JSON with the key `points`, or float32 [K, 2] in little-endian order.
        kind: its content type.
        most: points.

    Raises:
        PointsError: they are not numbers.
        HTTPException: the body is damaged, or they are too many.
    """
    if kind == BINARY:
        if len(body) % 8:
            raise HTTPException(400, f"the body has {len(body)} bytes, expected 8 for each point: u and v as float32")
        points: NDArray[Any] = np.frombuffer(body, "<f4").reshape(-1, 2)
    else:
        try:
            given = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise HTTPException(400, f"the body is not JSON: {one_line(error)}") from error
        if not isinstance(given, dict) or not isinstance(given.get("points"), list):
            raise HTTPException(400, 'the body has no list "points", expected {"points": [[u, v], ...]}')
        try:
            points = np.array(given["points"])
        except ValueError as error:
            raise PointsError(f"points are not (u, v) pairs ({one_line(error)}); expected [[u, v], ...]") from error
        if points.dtype.kind not in "fiu":
            raise PointsError("points are not numbers; expected [[u, v], ...]")
    if len(points) > most:
        raise HTTPException(413, f"{len(points)} points are asked, the limit is {most}; ask in parts")
    return points


async def _in_time(body: Awaitable[Body]) -> Body:
    try:
        return await asyncio.wait_for(body, RECEIVE_SECONDS)
    except asyncio.TimeoutError as error:
        raise HTTPException(408, f"the body did not arrive within {RECEIVE_SECONDS} seconds; send it again") from error


async def _bounded(request: Request, limit: int, what: str) -> AsyncGenerator[bytes, None]:
    """The body in pieces, of `limit` bytes at most."""
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise HTTPException(415, "the body has a Content-Encoding; send it without")
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > limit:
        raise HTTPException(413, f"{what} has {int(length)} bytes, the limit is {limit}")
    count = 0
    async for piece in request.stream():
        count += len(piece)
        if count > limit:
            raise HTTPException(413, f"{what} has more than {limit} bytes, the limit")
        yield piece


async def _joined(pieces: AsyncGenerator[bytes, None]) -> bytes:
    body = bytearray()
    async for piece in pieces:
        body += piece
    return bytes(body)


async def _image_of_form(request: Request, limit: int) -> bytes:
    pieces = _bounded(request, limit + FORM_OVERHEAD, "the form")
    parser = MultiPartParser(request.headers, pieces, max_files=1, max_fields=4, max_part_size=FORM_OVERHEAD)
    parser.spool_max_size = limit + FORM_OVERHEAD  # nothing goes to the disk
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise HTTPException(400, f"the form cannot be read: {error.message}") from error
    image = form.get("image")
    data = await image.read() if isinstance(image, UploadFile) else None
    await form.close()
    if data is None:
        raise HTTPException(400, "the form has no file `image`; with curl: -F image=@photo.jpg")
    if len(data) > limit:
        raise HTTPException(413, f"the image has {len(data)} bytes, the limit is {limit}")
    return data
