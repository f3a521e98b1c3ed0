"""The metrics page: what the workers count, in the Prometheus text format."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from doorward.app.certificates import Certificates

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from doorward.app.supervisor import Supervisor


class Series(msgspec.Struct, frozen=True):
    """One metric; docs/reference/metrics.md is compared with these."""

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    labels: tuple[str, ...]
    help: str


METRICS: tuple[Series, ...] = (
    Series("doorward_ready", "gauge", (), "1 while every worker serves."),
    Series("doorward_workers", "gauge", (), "Worker processes that run."),
    Series("doorward_worker_restarts_total", "counter", (), "Workers that ended and were started again."),
    Series("doorward_settings_revision", "gauge", (), "Number of the settings revision in force."),
    Series("doorward_generation", "gauge", ("worker",), "Generation of the snapshot in force in a worker."),
    Series("doorward_sessions", "gauge", ("worker",), "Sessions of the eras up to 2025-11-25."),
    Series("doorward_streams", "gauge", ("worker",), "Event streams and calls under way."),
    Series("doorward_connections", "gauge", ("worker",), "Open client connections."),
    Series(
        "doorward_crossed_sessions",
        "gauge",
        ("worker",),
        "Sessions at servers of the eras up to 2025-11-25 that clients of 2026-07-28 share.",
    ),
    Series(
        "doorward_parked_calls",
        "gauge",
        ("worker",),
        "Calls that wait for their callers' answers to a question.",
    ),
    Series("doorward_ledger_ok", "gauge", ("worker",), "1 while a worker's log can be written."),
    Series(
        "doorward_ledger_unsigned_seconds",
        "gauge",
        ("worker",),
        "For how long a worker's log has waited for a checkpoint; 0 when all is well.",
    ),
    Series(
        "doorward_requests_total",
        "counter",
        ("worker", "server", "method", "verdict", "status"),
        "Requests by protected server, MCP method, verdict and HTTP status.",
    ),
    Series(
        "doorward_refusals_total", "counter", ("worker", "control"), "Refusals by the control that gave them."
    ),
    Series(
        "doorward_control_crashes_total",
        "counter",
        ("worker", "control"),
        "Refusals because a control could not decide; anything above 0 is a fault of Doorward.",
    ),
    Series(
        "doorward_control_degraded",
        "gauge",
        ("control",),
        "1 while a control or posture does not hold fully.",
    ),
    Series(
        "doorward_request_seconds",
        "histogram",
        ("worker",),
        "Time from a request's head to its answer's end.",
    ),
    Series(
        "doorward_certificate_seconds_left",
        "gauge",
        ("certificate",),
        "Until a certificate runs out; below 0 it has.",
    ),
    Series("doorward_handshakes_pending", "gauge", ("worker",), "TLS handshakes under way."),
    Series(
        "doorward_handshakes_failed_total",
        "counter",
        ("worker", "reason"),
        "TLS handshakes that came to no end, and connections that spoke plain HTTP.",
    ),
    Series("doorward_children", "gauge", ("server",), "Running processes of a stdio server."),
)
_PER_WORKER = {
    "doorward_generation": "generation",
    "doorward_sessions": "sessions",
    "doorward_streams": "streams",
    "doorward_connections": "connections",
    "doorward_crossed_sessions": "crossed_sessions",
    "doorward_parked_calls": "parked_calls",
    "doorward_ledger_ok": "ledger_ok",
    "doorward_ledger_unsigned_seconds": "ledger_unsigned_seconds",
    "doorward_handshakes_pending": "handshakes_pending",
}
_Sample = tuple[list[str], float]


def write_metrics(supervisor: Supervisor, degraded: dict[str, bool]) -> str:
    """The page. ``degraded`` tells for every control and posture whether it does not hold fully."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(supervisor, degraded))
    return generate_latest(registry).decode()


class _Collector:
    def __init__(self, supervisor: Supervisor, degraded: dict[str, bool]) -> None:
        self._own = supervisor
        self._degraded = degraded

    def collect(self) -> Iterator[Metric]:
        workers = [(str(index), one.numbers) for index, one in sorted(self._own.workers.items())]
        for series in METRICS:
            if series.kind == "histogram":
                yield _durations(series, workers)
                continue
            family: Metric
            if series.kind == "counter":
                family = counter = CounterMetricFamily(series.name, series.help, labels=series.labels)
                add: Any = counter.add_metric
            else:
                family = gauge = GaugeMetricFamily(series.name, series.help, labels=series.labels)
                add = gauge.add_metric
            for labels, value in self._samples(series, workers):
                add(labels, value)
            yield family

    def _samples(self, series: Series, workers: list[tuple[str, dict[str, Any]]]) -> Iterable[_Sample]:
        own = self._own
        if field := _PER_WORKER.get(series.name):
            return [([worker], float(numbers.get(field, 0))) for worker, numbers in workers]
        match series.name:
            case "doorward_ready":
                return [([], float(own.is_ready))]
            case "doorward_workers":
                return [([], len(workers))]
            case "doorward_worker_restarts_total":
                return [([], own.restarts)]
            case "doorward_settings_revision":
                return [([], own.revision)]
            case "doorward_requests_total":
                return [
                    ([worker, *map(str, row[:-1])], row[-1])
                    for worker, numbers in workers
                    for row in numbers.get("requests", [])
                ]
            case "doorward_refusals_total":
                return _by_control(workers, "refusals")
            case "doorward_control_crashes_total":
                return _by_control(workers, "crashes")
            case "doorward_certificate_seconds_left":
                return [
                    ([where], left) for where, left in own.offices.of(Certificates).seconds_left().items()
                ]
            case "doorward_handshakes_failed_total":
                return _by_control(workers, "handshakes_failed")
            case "doorward_control_degraded":
                return [([slug], float(bad)) for slug, bad in self._degraded.items()]
            case _:
                running = own.pool.running() if own.pool is not None else {}
                return [([name], count) for name, count in running.items()]


def _by_control(workers: list[tuple[str, dict[str, Any]]], field: str) -> list[_Sample]:
    return [
        ([worker, slug], count)
        for worker, numbers in workers
        for slug, count in numbers.get(field, {}).items()
    ]


def _durations(series: Series, workers: list[tuple[str, dict[str, Any]]]) -> Metric:
    family = HistogramMetricFamily(series.name, series.help, labels=series.labels)
    for worker, numbers in workers:
        edges = [*(str(bound / 1e6) for bound in numbers.get("duration_bounds_us", [])), "+Inf"]
        total, buckets = 0, []
        for edge, count in zip(edges, numbers.get("durations", [0]), strict=False):
            total += count
            buckets.append((edge, float(total)))
        family.add_metric([worker], buckets, numbers.get("duration_sum_us", 0) / 1e6)
    return family
