"""What `/metrics` tells, in the text format of Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from time import perf_counter

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from spd.runtime import Model

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
        self.closed = Counter(
            "spd_scenes_closed", "Scenes that ended by themselves: nobody asked (idle), or evicted.", ("reason",),
            registry=self._registry,
        )  # fmt: skip
        for stage in STAGES:
            self._seconds.labels(stage)

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Add what is looked up whenever it is asked."""
        Gauge(name, text, registry=self._registry).set_function(value)

    def count_model(self, model: Model) -> None:
        """Add what a model counts itself; it must not be closed before the server ends."""
        self._registry.register(_ModelCounts(model))

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


class _ModelCounts(Collector):
    """The `Stats` of a model, whenever they are asked."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def collect(self) -> Iterable[Metric]:
        stats = self._model.stats()
        again = "Images encoded; more than were sent if scenes were evicted and asked again."
        yield CounterMetricFamily("spd_encodings", again, stats.encodings)
        yield CounterMetricFamily("spd_evictions", "Caches that made room for others on the device.", stats.evictions)
        yield GaugeMetricFamily("spd_caches", "Scenes whose cache is on the device.", stats.scenes)
        if stats.bytes is not None:
            yield GaugeMetricFamily("spd_cache_bytes", "Bytes of those caches.", stats.bytes)


class Stage:
    """How long a stage took."""

    seconds = 0.0
    """Known once it is over."""

    @property
    def ms(self) -> float:
        """The same in milliseconds, to a microsecond."""
        return round(self.seconds * 1000, 3)
