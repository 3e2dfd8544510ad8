"""Figures for Prometheus."""

from __future__ import annotations

import os
import time
from collections import Counter as Tally
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from agent_memory.server.serving import Serving
from agent_memory.telemetry.stages import observe

_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Counts what a process does; with several processes, ``PROMETHEUS_MULTIPROC_DIR`` brings their counts together."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "agent_memory_requests", "Answers by method and status.", ["method", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "agent_memory_request_seconds", "Seconds to answer.", ["method"], buckets=_BUCKETS, registry=self._registry
        )
        self._stages = Histogram(
            "agent_memory_stage_seconds", "Seconds by stage.", ["stage"], buckets=_BUCKETS, registry=self._registry
        )
        self._stop: Callable[[], None] = lambda: None
        self._serving: Serving | None = None

    def watch(self, serving: Serving) -> None:
        """Measure stages, and tell the state of a server."""
        self._serving = serving
        self._stop = observe(self._time)

    def unwatch(self) -> None:
        """Stop measuring."""
        self._stop()
        self._serving = None

    @contextmanager
    def _time(self, name: str, _: dict[str, Any]) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self._stages.labels(name).observe(time.perf_counter() - began)

    def count_request(self, method: str, status: int, seconds: float) -> None:
        """Count an answer."""
        self._requests.labels(method, str(status)).inc()
        self._seconds.labels(method).observe(seconds)

    def expose(self) -> tuple[bytes, str]:
        """Return the figures and their media type."""
        shown = self._registry
        if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
            shown = CollectorRegistry()
            MultiProcessCollector(shown)  # type: ignore[no-untyped-call]
        text = generate_latest(shown)
        if self._serving is not None:
            state = CollectorRegistry()
            state.register(_State(self._serving))
            text += generate_latest(state)
        return text, CONTENT_TYPE_LATEST


class _State(Collector):
    """The state of the store and of the server, read when it is asked for."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the figures."""
        stats = self._serving.memory.stats()
        figures = {
            "entries": (stats.entries, "Entries that recall can return."),
            "entries_expired": (stats.expired, "Expired entries that are not purged yet."),
            "sessions": (stats.sessions, "Sessions."),
            "namespaces": (stats.namespaces, "Namespaces that hold entries."),
            "changes": (stats.seq, "Number of the latest change."),
            "database_bytes": (stats.database_bytes, "Size of the database with its log."),
            "snapshot_bytes": (stats.snapshot_bytes, "Size of the index snapshots."),
            "requests_waiting": (self._serving.waiting, "Requests under way or waiting in this process."),
        }
        for name, (value, text) in figures.items():
            yield GaugeMetricFamily(f"agent_memory_{name}", text, value=value)
        index = GaugeMetricFamily("agent_memory_index", "The index in memory.", labels=["fact"])
        for name, value in stats.index.items():
            if isinstance(value, int | float):
                index.add_metric([name], value)
        yield index
        jobs = GaugeMetricFamily("agent_memory_jobs", "The latest 1,000 jobs by state.", labels=["state"])
        for state, number in Tally(str(job.state) for job in self._serving.memory.jobs(limit=1000)).items():
            jobs.add_metric([state], number)
        yield jobs
