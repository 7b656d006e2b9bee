"""The model, the scenes and the threads of one server, from its start to its end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from starlette.exceptions import HTTPException

from spd.bundle import Manifest
from spd.runtime import Model
from spd.serve.metrics import Metrics
from spd.serve.scenes import Scenes
from spd.serve.settings import Settings
from spd.serve.work import Work

logger = logging.getLogger("spd")

STOPPING = "the server is stopping; ask again later"

SHIPPED = tuple(path.name for path in (Path(__file__).parents[1] / "weights").glob("*.safetensors"))
"""Weights that come with this package: small networks that show how it works."""


class Service:
    """What the endpoints use."""

    def __init__(self, settings: Settings, load: Callable[[], Model]) -> None:
        """Begin without a model.

        Args:
            settings: limits.
            load: gives the model; called in a thread once the server runs.
        """
        self.settings = settings
        self.metrics = Metrics()
        self.work = Work(settings.workers, settings.queue)
        self.scenes = Scenes(settings, self.metrics)
        self.failure: Exception | None = None
        """Why the model could not be loaded."""
        self.stopping = False
        """Whether the server is to end."""
        self.on_loaded: Callable[[Model], None] = lambda _: None
        self.on_failure: Callable[[], None] = lambda: None
        self._load = load
        self._model: Model | None = None
        gauge = self.metrics.gauge
        gauge("spd_scenes", "Scenes that can be asked.", lambda: len(self.scenes))
        gauge("spd_requests_held", "Requests that are read, wait or are at work.", lambda: self.work.taken)
        gauge("spd_work_waiting", "Requests that wait for a thread.", lambda: self.work.waiting)
        gauge("spd_work_running", "Requests at work on a thread.", lambda: self.work.running)

    @property
    def ready(self) -> bool:
        """Whether images and points are taken."""
        return self._model is not None and not self.stopping

    @property
    def model(self) -> Model:
        """The model.

        Raises:
            HTTPException: it is not loaded yet.
        """
        if self._model is None:
            raise HTTPException(503, "the model is being loaded; ask again later", {"Retry-After": "2"})
        return self._model

    @asynccontextmanager
    async def lifespan(self, _: object) -> AsyncIterator[None]:
        """Load the model while the server already answers, and end everything with it."""
        tasks = [asyncio.create_task(self._start()), asyncio.create_task(self._close_idle())]
        try:
            yield
        finally:
            self.stopping = True
            for task in tasks:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            self.work.close()
            self.scenes.close()
            if self._model is not None:
                self._model.close()

    async def _start(self) -> None:
        try:
            model = await asyncio.get_running_loop().run_in_executor(None, self._loaded)
        except Exception as error:  # whatever it is, the command says it
            self.failure = error
            self.on_failure()
            return
        self._model = model
        self.metrics.count_model(model)
        self.on_loaded(model)

    def _loaded(self) -> Model:
        """The model after its first calls, which take longer than the next ones."""
        model = self._load()
        model.warm_up()
        return model

    async def _close_idle(self) -> None:
        while True:
            await asyncio.sleep(min(self.settings.idle_seconds / 4, 5))
            self.scenes.close_idle()


def is_demo(manifest: Manifest | None) -> bool:
    """Whether nobody should rely on the depths: the weights are random, unproven, or those that show how it works."""
    if manifest is None:
        return False
    return not (manifest.trained and manifest.verified) or manifest.checkpoint in SHIPPED
