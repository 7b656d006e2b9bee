"""Many clients at once, of which some send nonsense and some go away."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from serve_support import BINARY, Served, check_documented, png

from spd.data.rooms import render_room
from spd.runtime import Model
from spd.runtime.backend import cache_nbytes

SCENES_CACHED, MAX_SCENES, WORKERS, QUEUE, MAX_UPLOAD = 12, 60, 2, 12, 100_000

GROWTH = 64 << 20
"""What the server may grow after a quarter of the time, bytes. It may hold 13 MB of caches, 6 MB of images to encode
again and 2 MB of bodies, and ONNX Runtime's arena grew by 27 MB until it had met all sizes on both threads."""


class Photo:
    """An image, and what the server should answer about it."""

    def __init__(self, model: Model, seed: int, height: int, width: int) -> None:
        room = render_room(seed, height, width).image
        self.data = png(room)
        self.size = width, height
        self.questions: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []
        self.grids: dict[int, NDArray[np.float32]] = {}
        with model.encode(room) as scene:
            for count in (1, 5, 60):
                points = np.random.default_rng(count).random((count, 2)).astype(np.float32) * np.float32(
                    (width, height)
                )
                self.questions.append((points, scene.depth(points)))
            for columns in (4, 12):
                rows = round(columns * height / width)
                u, v = (np.arange(columns) + 0.5) * width / columns, (np.arange(rows) + 0.5) * height / rows
                self.grids[columns] = scene.depth(np.stack(np.meshgrid(u, v), -1).reshape(-1, 2))


NONSENSE: tuple[tuple[str, str, dict[str, Any], set[int]], ...] = (
    ("POST", "/scenes", {"content": b"no image"}, {422, 429}),
    ("POST", "/scenes", {"content": bytes(MAX_UPLOAD + 1)}, {413, 429}),
    ("POST", "/scenes", {"json": {}}, {415, 429}),
    ("GET", "/scenes/unknown", {}, {404}),
    ("POST", "/scenes/unknown/depth", {"json": {"points": []}}, {404}),
    ("GET", "/nothing", {}, {404}),
    ("DELETE", "/info", {}, {405}),
)


class Client:
    """One of many: does something at random, again and again."""

    def __init__(self, http: httpx.AsyncClient, photos: list[Photo], seed: int, seen: Counter[str]) -> None:
        self.http, self.photos, self.seen = http, photos, seen
        self.random = random.Random(seed)
        self.scenes: list[tuple[str, Photo]] = []

    async def run(self, end: float) -> None:
        while time.monotonic() < end:
            doings = [self.send] if not self.scenes else [self.send, *[self.ask] * 8, *[self.grid] * 2, self.delete]
            doing = self.random.choice([*doings, self.send_nonsense, self.go_away])
            await doing()

    async def send(self) -> None:
        photo = self.random.choice(self.photos)
        response = await self.http.post("/scenes", content=photo.data, headers={"Content-Type": "image/png"})
        self.seen[f"sent {response.status_code}"] += 1
        if response.status_code != 201:
            assert response.status_code == 429
            await asyncio.sleep(0.05)
            return
        assert (response.json()["width"], response.json()["height"]) == photo.size
        self.scenes = [*self.scenes[-2:], (response.headers["Location"], photo)]

    async def ask(self) -> None:
        path, photo = self.random.choice(self.scenes)
        points, expected = self.random.choice(photo.questions)
        binary = self.random.random() < 0.5
        if binary:
            response = await self.http.post(f"{path}/depth", content=points.tobytes(), headers=BINARY)
        else:
            response = await self.http.post(f"{path}/depth", json={"points": points.tolist()})
        if self.found(response, path):
            depth = np.frombuffer(response.content, "<f4") if binary else np.float32(response.json()["depth"])
            np.testing.assert_array_equal(depth, expected)

    async def grid(self) -> None:
        path, photo = self.random.choice(self.scenes)
        columns, expected = self.random.choice(list(photo.grids.items()))
        response = await self.http.get(f"{path}/grid", params={"width": columns})
        if self.found(response, path):
            np.testing.assert_array_equal(np.float32(response.json()["depth"]).ravel(), expected)

    def found(self, response: httpx.Response, path: str) -> bool:
        """Whether a scene has answered; one that is gone is forgotten."""
        self.seen[f"asked {response.status_code}"] += 1
        assert response.status_code in (200, 410, 429), response.text
        if response.status_code == 410:
            self.scenes = [scene for scene in self.scenes if scene[0] != path]
        return response.status_code == 200

    async def delete(self) -> None:
        path, _ = self.scenes.pop(self.random.randrange(len(self.scenes)))
        response = await self.http.delete(path)
        self.seen[f"deleted {response.status_code}"] += 1
        assert response.status_code in (204, 410)

    async def send_nonsense(self) -> None:
        method, path, body, statuses = self.random.choice(NONSENSE)
        response = await self.http.request(method, path, **body)
        self.seen[f"nonsense {response.status_code}"] += 1
        assert response.status_code in statuses, response.text

    async def go_away(self) -> None:
        doing = self.ask if self.scenes and self.random.random() < 0.5 else self.send
        try:
            await asyncio.wait_for(doing(), self.random.random() * 0.05)
        except asyncio.TimeoutError:
            self.seen["went away"] += 1


async def load_server(
    url: str, photos: list[Photo], clients: int, seconds: float
) -> tuple[Counter[str], list[float], float]:
    """What clients have seen, the server's memory at a quarter of the time and in the end, and how many encodings."""

    async def check(response: httpx.Response) -> None:
        await response.aread()
        check_documented(response)

    seen: Counter[str] = Counter()
    # The server closes connections that are idle for 5 seconds.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=clients, keepalive_expiry=2)
    hooks = {"response": [check]}
    async with httpx.AsyncClient(base_url=url, limits=limits, event_hooks=hooks, timeout=60) as http:
        crowd = [Client(http, photos, seed, seen) for seed in range(clients)]
        memory = []
        begin = time.monotonic()
        for part in (0.25, 1):
            await asyncio.gather(*(client.run(begin + seconds * part) for client in crowd))
            memory.append(await sample(http, "process_resident_memory_bytes"))
        for client in crowd:
            while client.scenes:
                await client.delete()
        while (await sample(http, "spd_requests_held")) > 0:
            await asyncio.sleep(0.01)
        assert await sample(http, "spd_work_waiting") == 0
        encoded = await sample(http, 'spd_stage_seconds_count{stage="encode"}')
    return seen, memory, encoded


async def sample(http: httpx.AsyncClient, name: str) -> float:
    lines = (await http.get("/metrics")).text.splitlines()
    (value,) = (line.split(" ")[1] for line in lines if line.startswith(f"{name} "))
    return float(value)


@pytest.fixture(scope="module")
def photos(model: Model) -> list[Photo]:
    return [Photo(model, 3, 96, 128), Photo(model, 4, 120, 90), Photo(model, 5, 160, 192)]


@pytest.mark.parametrize("on_evicted", ["encode", "410"])
@pytest.mark.parametrize(
    ("clients", "seconds"), [(16, 5), pytest.param(64, 60, marks=pytest.mark.slow)], ids=["16", "64"]
)
def test_under_load(
    exported: Path, model: Model, photos: list[Photo], clients: int, seconds: float, on_evicted: str
) -> None:
    assert model.manifest is not None
    cache = cache_nbytes(model.manifest.contract, "fp32")
    options = ["--backend", "onnxruntime-cpu", "--precision", "fp32", "--threads", "1", "--max-points", "500"]
    options += ["--cache-budget", str(SCENES_CACHED * cache), "--on-evicted", on_evicted]
    options += ["--max-scenes", str(MAX_SCENES), "--max-upload", str(MAX_UPLOAD)]
    options += ["--workers", str(WORKERS), "--queue", str(QUEUE)]
    with Served(str(exported), *options) as served:
        seen, memory, encoded = asyncio.run(load_server(served.wait_ready(), photos, clients, seconds))
        assert served.end() == 0
        assert served.lines[2:] == ["Stopping: what runs is finished."]
    kinds = {"sent 201", "asked 200", "went away", "nonsense 422", "nonsense 404", "nonsense 413"}
    assert kinds <= seen.keys(), seen
    assert on_evicted == "encode" or "asked 410" in seen
    assert memory[1] - memory[0] < GROWTH, memory
    assert clients < 64 or encoded * cache > 2 * GROWTH, "too few to see that nothing is kept of each"
