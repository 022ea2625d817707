"""Counters and histograms of one process, as Prometheus reads them."""

import os
from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from engine.explanation import Explanation
from engine.methods.learned_mask import LearnedMask
from engine.runtime.memory import resident_bytes
from engine.service.tickets import Ticket

SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.3, 0.4, 0.6, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
PASS_BUCKETS = (64, 128, 256, 384, 512, 768, 1024, 2048, 4096, 8192)
RELIABILITIES = (0.5, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 1.0)
GAUGES = {
    "queue_depth": True,
    "kept_bytes": True,
    "cache_hits": False,
    "cache_misses": False,
    "cache_bytes": False,
    "resident_bytes": False,
}
"""What goes up and down, and whether it does so by lane or kind."""
SEVERAL = "PROMETHEUS_MULTIPROC_DIR"
"""Set where several processes count together: the folder in which they do."""
Gauges = Callable[[], dict[tuple[str, str], float]]
"""(name, lane or "") -> value, asked for whenever the metrics are read."""


class Metrics:
    """What was counted since the process began. Threads may share it.

    gauges: asked for values that go up and down, those of GAUGES; batch: asked for the rows of a run
    """

    def __init__(self, gauges: Gauges, batch: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter("sane_requests", "Requests answered", ["route", "status"], registry=self.registry)
        self._seconds = Histogram(
            "sane_request_seconds", "From the first byte to the last", ["route"], buckets=SECONDS, registry=self.registry
        )
        self._stages = Histogram(
            "sane_stage_seconds",
            "Of a request: decode, queue, network, search, algebra, render",
            ["stage"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self._passes = Histogram("sane_passes", "Passes of an explanation", buckets=PASS_BUCKETS, registry=self.registry)
        self._reliability = Histogram(
            "sane_reliability",
            "Correlation of a map with its limit",
            buckets=RELIABILITIES,
            registry=self.registry,
        )
        self._cut = Counter("sane_deadlines_reached", "Explanations that a deadline ended", registry=self.registry)
        self._rows = Counter(
            "sane_rows",
            "Rows of runs over masked pictures: masked, or padded to fill the run",
            ["kind"],
            registry=self.registry,
        )
        self._batch = batch
        self._gauges, self._now = gauges, {name: _gauge(name, lanes, self.registry) for name, lanes in GAUGES.items()}

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count a request. route: as in the OpenAPI document, so that ids make no series of their own"""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)
        self._look()

    def worked(self, ticket: Ticket, explanations: Sequence[Explanation] = ()) -> None:
        """Count the stages of a piece of work, and the explanations that came of it."""
        for stage, seconds in ticket.stages.items():
            self._stages.labels(stage).observe(seconds)
        if not any(explanation.method == LearnedMask.name for explanation in explanations):  # whose runs are all full
            self._rows.labels("masked").inc(ticket.rows)
            self._rows.labels("padded").inc(ticket.padded + max(ticket.batches * self._batch() - ticket.rows, 0))
        for explanation in explanations:
            self._passes.observe(explanation.passes)
            if explanation.saliency_reliability is not None:
                self._reliability.observe(explanation.saliency_reliability)
            if any("deadline" in note for note in explanation.notes):
                self._cut.inc()

    def text(self) -> bytes:
        """Everything in Prometheus' text format, of all processes where there are several."""
        self._look()
        if SEVERAL not in os.environ:
            return generate_latest(self.registry)
        of_all = CollectorRegistry()
        MultiProcessCollector(of_all)  # type: ignore[no-untyped-call]
        return generate_latest(of_all)

    def _look(self) -> None:
        for (name, lane), value in {**self._gauges(), ("resident_bytes", ""): resident_bytes()}.items():
            gauge = self._now[name]
            (gauge.labels(lane) if lane else gauge).set(value)


def _gauge(name: str, lanes: bool, registry: CollectorRegistry) -> Gauge:
    labels = ["lane"] if lanes else []
    return Gauge(f"sane_{name}", name.replace("_", " "), labels, registry=registry, multiprocess_mode="livesum")
