"""The page in a real Chromium, for tests."""

from __future__ import annotations

import base64
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from numpy.typing import NDArray

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = next((path for path in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if path), None)
FLAGS = (
    "--no-sandbox",  # which a container does not allow
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",  # WebGL without a GPU
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser; skips where there is none."""
    if CHROMIUM is None:
        pytest.skip("there is no chromium here; install it, for example: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        browser.close()


class Visitor:
    """Someone with the page open."""

    def __init__(self, browser: Any, url: str, **options: Any) -> None:
        options = {"viewport": {"width": 1280, "height": 800}, **options}
        self.page = browser.new_context(**options).new_page()
        self.page.set_default_timeout(20_000)
        self.errors: list[str] = []
        """What the browser complains of, such as what the page's own policy forbids."""
        self.hosts: set[str] = set()
        """Where requests went."""
        self.page.on(
            "console", lambda said: self.errors.append(said.text) if said.type in ("error", "warning") else None
        )
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))
        self.page.goto(url)
        self.page.wait_for_selector("#model:not(:empty)")

    def drop(self, data: bytes, name: str = "room.png", kind: str = "image/png", *, event: str = "drop") -> None:
        """Drop a file onto the page, or paste it."""
        script = """([data, name, type, event]) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([Uint8Array.from(atob(data), (c) => c.charCodeAt(0))], name, {type}));
            const options = {bubbles: true, cancelable: true, dataTransfer: transfer, clipboardData: transfer};
            const kind = event === "paste" ? ClipboardEvent : DragEvent;
            document.body.dispatchEvent(new kind(event, options));
        }"""
        self.page.evaluate(script, [base64.b64encode(data).decode(), name, kind, event])

    def show(self, data: bytes, name: str = "room.png", **options: Any) -> None:
        """Drop a photo, and wait until it can be asked and hovered over."""
        self.drop(data, name, **options)
        self.page.wait_for_selector("body[data-state=photo]:not(.busy)")

    def place(self, u: float, v: float, size: tuple[int, int]) -> tuple[float, float]:
        """Where a pixel of a photo of `size` (width, height) is on the screen."""
        box = self.page.locator("#frame").bounding_box()
        return box["x"] + u / size[0] * box["width"], box["y"] + v / size[1] * box["height"]

    def click(self, u: float, v: float, size: tuple[int, int]) -> None:
        """Click a pixel, and wait for its row in the list."""
        with self.new_row():
            self.page.mouse.click(*self.place(u, v, size))

    def drag(self, start: tuple[float, float], end: tuple[float, float], size: tuple[int, int]) -> None:
        """Draw a line, and wait for its row in the list."""
        with self.new_row():
            self.page.mouse.move(*self.place(*start, size))
            self.page.mouse.down()
            self.page.mouse.move(*self.place(*end, size), steps=3)
            self.page.mouse.up()

    @contextmanager
    def new_row(self) -> Iterator[None]:
        """Wait for one more row in the list."""
        rows = self.page.locator("#marks li")
        count = rows.count()
        yield
        rows.nth(count).wait_for()

    def text(self, selector: str) -> str:
        """What an element says."""
        found: str = self.page.inner_text(selector)
        return found

    def rows(self) -> NDArray[np.float64]:
        """The file that is downloaded, [rows, 3]; depths to the last bit of a float32."""
        with self.page.expect_download() as download:
            self.page.click("#download")
        head, *lines = download.value.path().read_text().splitlines()
        assert head == "u,v,depth"
        return np.array([[float(cell) for cell in line.split(",")] for line in lines])

    def import_module(self, name: str, code: str, *values: Any) -> Any:
        """The value of some code over `m`, a module of the page, and `v`, values."""
        script = (
            f"async (v) => {{ const m = await import(new URL('static/{name}', document.baseURI)); return ({code}); }}"
        )
        return self.page.evaluate(script, list(values))

    def close(self) -> None:
        """Leave."""
        self.page.context.close()


def metres(text: str) -> float:
    """The number of "2.314 m"."""
    match = re.fullmatch(r"~?(\d+\.\d+) m", text)
    assert match, text
    return float(match[1])
