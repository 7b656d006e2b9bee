"""What `/metrics` tells, in the text format of Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
STAGES = ("decode", "encode", "depth")


class Metrics:
    """One server's counts; may be used in several threads."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._seconds = Histogram(
            "spd_stage_seconds",
            "Time of one stage: decoding the image file, encoding the image, or the depths of one question.",
            ("stage",),
            buckets=BUCKETS,
            registry=self._registry,
        )
        self.requests = Counter(
            "spd_requests", "Requests by the status of their answer.", ("method", "route", "status"),
            registry=self._registry,
        )  # fmt: skip
        self.evictions = Counter(
            "spd_evictions", "Scenes closed because nobody asked (idle) or for room (budget).", ("reason",),
            registry=self._registry,
        )  # fmt: skip
        for stage in STAGES:
            self._seconds.labels(stage)

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Add what is looked up whenever it is asked."""
        Gauge(name, text, registry=self._registry).set_function(value)

    @contextmanager
    def stage(self, name: str) -> Iterator[Stage]:
        """Measure a block that succeeds; how long it took is in what this gives."""
        stage = Stage()
        start = perf_counter()
        yield stage
        stage.seconds = perf_counter() - start
        self._seconds.labels(name).observe(stage.seconds)

    def text(self) -> bytes:
        """All of it."""
        return generate_latest(self._registry)


class Stage:
    """How long a stage took."""

    seconds = 0.0
    """Known once it is over."""

    @property
    def ms(self) -> float:
        """The same in milliseconds, to a microsecond."""
        return round(self.seconds * 1000, 3)
