"""The static site in a real browser, against the runtime."""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from page_support import Visitor, chromium
from PIL import Image
from serve_support import png

import spd
from tools.page import main, npm

pytestmark = [pytest.mark.slow, pytest.mark.skipif(npm() is None, reason="npm is not installed")]


class Quiet(SimpleHTTPRequestHandler):
    """Says nothing of requests."""

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture(params=["fp16", "fp32"])
def site(request: pytest.FixtureRequest, exported: Path, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """The address of a site, and its precision."""
    out = tmp_path / "site"
    done = CliRunner().invoke(main, [str(exported), "--out", str(out), "--precision", request.param])
    if "npm cannot fetch" in done.output:
        pytest.skip(done.output.strip())
    assert done.exit_code == 0, done.output
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(out))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}", request.param
        server.shutdown()
        thread.join()


@pytest.mark.timeout(300)
def test_depths_are_those_of_the_runtime(
    browser: Any, site: tuple[str, str], exported: Path, room: NDArray[np.uint8]
) -> None:
    host, precision = site
    visitor = Visitor(browser, f"http://{host}/")
    visitor.page.set_default_timeout(120_000)
    visitor.show(png(room))
    visitor.click(50, 50, (200, 120))
    visitor.drag((20, 20), (180, 100), (200, 120))
    rows = visitor.rows()
    random = np.random.default_rng(0)
    points = (random.random((300, 2)) * (200, 120)).astype(np.float32)
    code = """await (async ([data, points]) => {
        const engine = new m.Engine();
        await engine.encode(new File([Uint8Array.from(atob(data), (byte) => byte.charCodeAt(0))], "room.jpg"));
        return Array.from((await engine.depth(Float32Array.from(points))).depth);
    })(v)"""
    file = io.BytesIO()
    Image.fromarray(room).save(file, "JPEG")
    data = base64.b64encode(file.getvalue()).decode()
    of_jpeg = visitor.import_module("browser.js", code, data, points.ravel().tolist())
    with spd.load(exported, backend="onnxruntime-cpu", precision=precision, threads=1) as model:
        tolerance = {"fp32": 2e-6, "fp16": 4e-3}[precision]
        np.testing.assert_allclose(rows[:, 2], model.encode(room).depth(rows[:, :2]), rtol=tolerance)
        np.testing.assert_allclose(of_jpeg, model.encode(file.getvalue()).depth(points), rtol=tolerance)
    assert "onnxruntime-web" in visitor.text("#model")
    assert visitor.page.is_visible("#demo")
    visitor.drop(b"text", "notes.txt", kind="text/plain")
    visitor.page.wait_for_selector("#error:not([hidden])")
    assert visitor.text("#error") == "notes.txt is not an image that this browser can show"
    assert {found for found in visitor.hosts if found} == {host}
    assert not visitor.errors
    visitor.close()
