"""The application: addresses, refusals in one line, and the headers of every answer."""

from __future__ import annotations

import asyncio
import logging

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from spd.errors import DeviceMemoryError, InputError, SPDError, one_line
from spd.serve import endpoints
from spd.serve.service import STOPPING, Service

logger = logging.getLogger("spd")

CLIENT_GONE = 499
"""What is counted for a client that went away; nobody is there to read it."""
METHODS = ("GET", "HEAD", "POST", "DELETE", "OPTIONS")

HEADERS = {
    # The page shows photos from the visitor's own files; all else comes from here.
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def make_app(service: Service) -> ASGIApp:
    """The application of a service; its lifespan is the service's."""
    middleware = []
    if service.settings.cors:
        allowed = Middleware(
            CORSMiddleware,
            allow_origins=service.settings.cors,
            allow_methods=("GET", "POST", "DELETE"),
            allow_headers=("Content-Type",),
            expose_headers=("Location", "Retry-After", "Server-Timing", "X-Grid"),
        )
        middleware.append(allowed)
    app = Starlette(
        routes=routes(service),
        middleware=middleware,
        exception_handlers={
            HTTPException: _refused,
            SPDError: _failed,
            ClientDisconnect: _gone,
            MemoryError: _full,
            Exception: _mistaken,
        },
        lifespan=service.lifespan,
    )
    app.router.redirect_slashes = False
    app.state.service = service
    return _Counted(app, service)


def routes(service: Service) -> list[BaseRoute]:
    """All addresses."""
    found: list[BaseRoute] = [
        Route("/scenes", endpoints.create_scene, methods=["POST"]),
        Route("/scenes/{id}", endpoints.get_scene, methods=["GET"]),
        Route("/scenes/{id}", endpoints.delete_scene, methods=["DELETE"]),
        Route("/scenes/{id}/depth", endpoints.ask_depth, methods=["POST"]),
        Route("/scenes/{id}/grid", endpoints.ask_grid, methods=["GET"]),
        Route("/info", endpoints.info),
        Route("/healthz", endpoints.healthz),
        Route("/readyz", endpoints.readyz),
        Route("/metrics", endpoints.metrics),
        Route("/openapi.json", endpoints.describe),
        Route("/", endpoints.page),
    ]
    folder = service.settings.page
    if folder is not None and folder.is_dir():
        found.append(Mount("/static", StaticFiles(directory=folder)))
    return found


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    line, allowed = error.detail, (error.headers or {}).get("Allow")
    if allowed is not None:
        line = f"{request.method} is not answered here, expected {allowed}"
    elif line == "Not Found":  # Starlette's own
        line = "there is nothing at this address; see /openapi.json"
    return JSONResponse({"error": line}, error.status_code, error.headers)


def _failed(_: Request, error: Exception) -> Response:
    """An error of the model: the client's, or a matter of this machine."""
    line = {"error": one_line(error)}
    if isinstance(error, InputError):
        return JSONResponse(line, 422)
    logger.error("%s", line["error"])
    if isinstance(error, DeviceMemoryError):
        return JSONResponse(line, 503, {"Retry-After": "1"})
    return JSONResponse(line, 500)


def _full(_: Request, error: Exception) -> Response:
    logger.error("the memory is full: %s", one_line(error))
    return JSONResponse({"error": "the memory is full; ask again later"}, 503, {"Retry-After": "1"})


def _gone(_: Request, __: Exception) -> Response:
    return Response(status_code=CLIENT_GONE)


def _mistaken(_: Request, __: Exception) -> Response:
    return JSONResponse({"error": "a mistake in the server; its log says which"}, 500)


class _Counted:
    """Counts every answer, and gives it the headers."""

    def __init__(self, app: Starlette, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def counted(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                route = getattr(scope.get("route"), "path", "other")
                method = scope["method"] if scope["method"] in METHODS else "other"
                self._service.metrics.requests.labels(method, route, str(message["status"])).inc()
            await send(message)

        try:
            await self._app(scope, receive, counted)
        except asyncio.CancelledError:  # uvicorn's, once the time to finish is over
            if started or not self._service.stopping:
                raise
            stopping = JSONResponse({"error": STOPPING}, 503, {"Retry-After": "1"})
            await stopping(scope, receive, counted)
