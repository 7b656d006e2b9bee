"""A real Triton server, from the packages that `make triton-server` puts into a virtual environment of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"


@pytest.fixture(scope="session")
def triton_packages() -> Path:
    """The site-packages of that environment; skips where it is not there."""
    found = ROOT / ".venv-triton" / "lib" / f"python{VERSION}" / "site-packages"
    if not (found / "pytriton" / "tritonserver" / "bin" / "tritonserver").is_file():
        pytest.skip("no Triton server: make triton-server installs one")
    return found


@pytest.fixture(scope="session")
def triton_python(triton_packages: Path) -> Path:
    """Its Python, which has tritonclient."""
    return ROOT / ".venv-triton" / "bin" / "python"


@dataclass
class Server:
    """A running server."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path


@pytest.fixture
def serve(triton_packages: Path, tmp_path: Path) -> Iterator[Callable[[Path, tuple[str, ...]], Server]]:
    """Starts a server on a repository, with some of its models."""
    running: list[Server] = []

    def start(repository: Path, models: tuple[str, ...]) -> Server:
        server = _start(triton_packages, tmp_path / f"server-{len(running)}", repository, models)
        running.append(server)
        return server

    yield start
    for server in running:
        server.process.kill()
        server.process.wait()


def _start(packages: Path, folder: Path, repository: Path, models: tuple[str, ...]) -> Server:
    tritonserver = packages / "pytriton" / "tritonserver"
    backends = folder / "backends"
    shutil.copytree(tritonserver / "backends", backends)
    stub = "triton_python_backend_stub"
    shutil.copy(tritonserver / "python_backend_stubs" / VERSION / stub, backends / "python" / stub)
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": str(packages / "nvidia_pytriton.libs"),
        # The Python that the backend embeds takes its packages from the first python on the path.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    port = _free_port()
    command = [
        tritonserver / "bin" / "tritonserver",
        f"--model-repository={repository}",
        f"--backend-directory={backends}",
        "--model-control-mode=explicit",
        *(f"--load-model={model}" for model in models),
        f"--http-port={port}",
        "--http-address=127.0.0.1",
        "--allow-grpc=false",
        "--allow-metrics=false",
        "--exit-timeout-secs=5",
    ]
    log = folder / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=5):
                return Server(process, port, log)
        except OSError:
            time.sleep(0.2)
    process.kill()
    pytest.fail(f"the server did not start:\n{log.read_text(errors='replace')[-3000:]}")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port
