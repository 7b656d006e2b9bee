"""Servers for tests: in this process, on a socket in a thread, and the real command."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
import uvicorn
from numpy.typing import NDArray
from PIL import Image
from starlette.testclient import TestClient

from spd.runtime import Model
from spd.serve.app import make_app
from spd.serve.openapi import openapi
from spd.serve.service import Service
from spd.serve.settings import Settings

ROOT = Path(__file__).parents[2]
BINARY = {"Content-Type": "application/octet-stream"}
PATHS = openapi(Settings())["paths"]


def check_documented(response: httpx.Response) -> None:
    """Fail where the interface's description does not have the answer; a hook of clients."""
    path, method = response.request.url.path, response.request.method.lower()
    templates = {template: re.sub(r"\{id\}", "[^/]+", template) for template in PATHS}
    known = [PATHS[template] for template, pattern in templates.items() if re.fullmatch(pattern, path)]
    if not known:
        assert response.status_code == 404 or path.startswith("/static/")
    elif method not in known[0]:
        assert response.status_code == 405
    else:
        assert str(response.status_code) in known[0][method]["responses"], (method, path, response.status_code)
    if response.status_code >= 400:
        response.read()
        (line,) = response.json().values()
        assert set(response.json()) == {"error"}
        assert line
        assert "\n" not in line


def png(image: NDArray[np.uint8], **options: Any) -> bytes:
    """An image as the bytes of a PNG file."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", **options)
    return file.getvalue()


@contextmanager
def client_of(load: Callable[[], Model], **settings: Any) -> Iterator[TestClient]:
    """A client of a server in this process, once it is ready."""
    service = Service(Settings(**settings), load)
    with TestClient(make_app(service), raise_server_exceptions=False) as client:
        client.event_hooks = {"request": [], "response": [check_documented]}
        wait_until(lambda: service.ready)
        yield client


@contextmanager
def listening(load: Callable[[], Model], **settings: Any) -> Iterator[tuple[str, Service]]:
    """A server on a socket, in a thread; its address, once it is ready."""
    service = Service(Settings(**settings), load)
    config = uvicorn.Config(make_app(service), port=0, http="h11", log_config=None, lifespan="on")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started and service.ready)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}", service
    finally:
        server.should_exit = True
        thread.join()


class Served:
    """A process of the command `spd-serve`."""

    def __init__(self, *arguments: str, port: str = "0") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "spd.serve.cli", *arguments, "--port", port],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []
        """What it has said on stderr."""

    def wait_ready(self) -> str:
        """Its address, once it says that it serves."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))
            if " serves " in line:
                return line.split(" ", 1)[0]
        raise AssertionError(f"it ended with {self.process.wait()}: {self.lines}")

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Its exit code after a signal."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Its exit code."""
        assert self.process.stderr is not None
        self.lines += self.process.stderr.read().splitlines()
        return self.process.wait()

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stderr is not None
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.process.stderr.close()


def wait_until(true: Callable[[], bool], seconds: float = 30) -> None:
    """Wait for what another thread or process does."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.01)
