"""From the command line to a running server, and to its end."""

from __future__ import annotations

import logging
import socket
import sys
from functools import partial
from pathlib import Path
from types import FrameType

import uvicorn

from spd.commands.cli import note
from spd.errors import BackendError
from spd.files import checkpoint_suffix
from spd.runtime import Model, load
from spd.serve.app import make_app
from spd.serve.service import Service, is_demo
from spd.serve.settings import Settings

DEFAULT_BUDGET = "1GiB"
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class _Server(uvicorn.Server):
    """Ends with exit code 0 on SIGTERM and Ctrl-C; uvicorn itself would raise the signal again."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Finish what runs; a second signal does not wait for it."""
        self.force_exit = self.should_exit
        self.should_exit = self._service.stopping = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close what listens, and wait for what runs."""
        if self._service.stopping:
            note("Stopping: what runs is finished.")
        await super().shutdown(sockets)


def serve(
    engines: Path,
    settings: Settings,
    *,
    backend: str = "auto",
    precision: str | None = None,
    threads: int | None = None,
    cache_budget: int | str | None = None,
    device: int | None = None,
) -> None:
    """Serve until a signal comes.

    Args:
        engines: a bundle, a folder that holds one, or a checkpoint.
        settings: limits and address.
        backend: as in `spd.load`.
        precision: as in `spd.load`.
        threads: as in `spd.load`.
        cache_budget: as in `spd.load`, but by default 1 GiB for a bundle.
        device: as in `spd.load`.

    Raises:
        SPDError: the address is taken, or the model cannot be loaded.
    """
    if cache_budget is None and not checkpoint_suffix(engines):
        cache_budget = DEFAULT_BUDGET
    loading = partial(
        load, engines, backend, precision=precision, threads=threads, cache_budget=cache_budget, device=device
    )
    service = Service(settings, loading)
    listener = _listener(settings.host, settings.port)
    if settings.host not in LOOPBACK:
        note(f"Warning: {settings.host} is open to other machines, and the server asks nobody who they are.")
    service.on_loaded = partial(_say_ready, _url(listener), engines)
    server = _Server(_config(service), service)
    service.on_failure = partial(setattr, server, "should_exit", True)
    server.run(sockets=[listener])
    if service.failure is not None:
        raise service.failure


def _listener(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, ValueError) as error:  # a ValueError for a name that cannot be one
        reason = getattr(error, "strerror", None) or error
        raise BackendError(
            f"cannot listen on port {port} of {host}: {reason}; choose another --port or --host"
        ) from error


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _config(service: Service) -> uvicorn.Config:
    verbose = service.settings.verbose
    if verbose:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        logging.getLogger("uvicorn.access").addHandler(handler)
    return uvicorn.Config(
        make_app(service),
        http="h11",
        ws="none",
        lifespan="on",
        access_log=verbose,
        log_config=None,
        log_level="info" if verbose else "error",
        server_header=False,
        timeout_graceful_shutdown=service.settings.drain_seconds,
    )


def _say_ready(url: str, engines: Path, model: Model) -> None:
    name = engines if model.manifest is None else model.manifest.name
    height, width = model.size
    note(f"{url} serves {name} on {model.backend} {model.precision}, {width} x {height} pixels; Ctrl-C ends it.")
    if is_demo(model.manifest):
        note("Note: these weights show how it works; do not rely on their depths.")
