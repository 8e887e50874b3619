"""The vocabulary: every metric's name, the log's shape, and how one process's numbers reach the gateway's /metrics."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable
from typing import Any, Final

import msgspec
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import Metric

from headrace.settings import LogSettings

REGISTRY: Final = CollectorRegistry()
ProcessCollector(registry=REGISTRY)

_FAST: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SLOW: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)

documents_accepted = Counter("headrace_documents_accepted", "Documents made durable.", ["pipeline"], registry=REGISTRY)
documents_refused = Counter(
    "headrace_documents_refused", "Documents refused at the door.", ["pipeline", "code"], registry=REGISTRY
)
http_requests = Counter(
    "headrace_http_requests", "HTTP requests answered.", ["route", "method", "status"], registry=REGISTRY
)
accept_seconds = Histogram(
    "headrace_accept_seconds",
    "From the first byte of a POST to its 202.",
    ["pipeline"],
    buckets=_FAST,
    registry=REGISTRY,
)
commit_seconds = Histogram(
    "headrace_commit_seconds", "From publishing a block to its PubAck.", ["stream"], buckets=_FAST, registry=REGISTRY
)
commit_documents = Histogram(
    "headrace_commit_documents",
    "Documents in one committed block.",
    ["pipeline"],
    buckets=(1, 2, 5, 10, 25, 50, 100, 250, 500, 1000),
    registry=REGISTRY,
)
in_flight_documents = Gauge(
    "headrace_in_flight_documents", "Documents that await their PubAck in this process.", registry=REGISTRY
)
stage_documents = Counter(
    "headrace_stage_documents",
    "Documents a stage has settled, by result: done, repeated or dead.",
    ["stage", "pipeline", "result"],
    registry=REGISTRY,
)
stage_seconds = Histogram(
    "headrace_stage_seconds", "Time a stage spent on one batch.", ["stage"], buckets=_SLOW, registry=REGISTRY
)
stored_seconds = Histogram(
    "headrace_stored_seconds",
    "From acceptance to stored, oldest document of each batch.",
    ["stage", "pipeline"],
    buckets=_SLOW,
    registry=REGISTRY,
)
dead_letters_resolved = Counter(
    "headrace_dead_letters_resolved",
    "Dead letters that people decided about: replayed or discarded.",
    ["how"],
    registry=REGISTRY,
)
store_up = Gauge(
    "headrace_store_up", "1 while the store answers, 0 while its circuit is open.", ["store"], registry=REGISTRY
)
stage_retries = Counter("headrace_stage_retries", "Batches tried again.", ["stage", "reason"], registry=REGISTRY)
consumer_pending = Gauge(
    "headrace_consumer_pending_blocks", "Blocks not yet delivered to a stage.", ["stage"], registry=REGISTRY
)
consumer_ack_pending = Gauge(
    "headrace_consumer_ack_pending_blocks",
    "Blocks delivered to a stage and not yet acknowledged.",
    ["stage"],
    registry=REGISTRY,
)
stream_bytes = Gauge("headrace_stream_bytes", "Size of a stream.", ["stream"], registry=REGISTRY)
stream_fill = Gauge("headrace_stream_fill_ratio", "Size of a stream over its limit.", ["stream"], registry=REGISTRY)
mesh_requests = Counter(
    "headrace_mesh_requests", "Requests answered by this process's service.", ["endpoint", "code"], registry=REGISTRY
)
mqtt_messages = Counter(
    "headrace_mqtt_messages",
    "Messages of the MQTT bridge, by result: carried, retried, refused (too large, topic) or dropped (QoS 0).",
    ["result"],
    registry=REGISTRY,
)
tokens_verified = Counter(
    "headrace_tokens_verified",
    "Bearer tokens that were not remembered from an earlier request, by outcome: verified or refused.",
    ["how"],
    registry=REGISTRY,
)
job_runs = Counter("headrace_job_runs", "Runs of jobs that ended, by outcome.", ["job", "outcome"], registry=REGISTRY)
job_retries = Counter(
    "headrace_job_retries", "Attempts of runs that failed and are to be repeated.", ["job"], registry=REGISTRY
)
job_missed = Counter(
    "headrace_job_missed", "Times a job was due while nobody could run it.", ["job"], registry=REGISTRY
)
job_seconds = Histogram(
    "headrace_job_seconds", "Time one attempt of a job took.", ["job"], buckets=_SLOW, registry=REGISTRY
)
ledger_balanced = Gauge(
    "headrace_ledger_balanced",
    "1 where the books of a pipeline balanced when they were last checked, else 0.",
    ["pipeline"],
    registry=REGISTRY,
)
reconcile_findings = Gauge(
    "headrace_reconcile_findings",
    "What the last reconciliation of a pipeline found and nobody has repaired.",
    ["pipeline"],
    registry=REGISTRY,
)
reconnects = Counter("headrace_nats_reconnects", "Times the NATS connection was lost and found.", registry=REGISTRY)


class Sample(msgspec.Struct, array_like=True):
    name: str
    labels: dict[str, str]
    value: float


class Family(msgspec.Struct, array_like=True):
    name: str
    help: str
    type: str
    samples: list[Sample]


def snapshot() -> bytes:
    """Return this process's metrics as JSON families, for another process to merge."""
    return msgspec.json.encode(
        [
            Family(m.name, m.documentation, m.type, [Sample(s.name, s.labels, s.value) for s in m.samples])
            for m in REGISTRY.collect()
        ]
    )


class Merged:
    """A prometheus collector over the snapshots of many processes, told apart by labels.

    No metric has labels of these names: two of its samples could become one series, which Prometheus refuses.
    """

    def __init__(self, snapshots: Iterable[tuple[dict[str, str], bytes]]) -> None:
        self._snapshots = list(snapshots)

    def collect(self) -> Iterable[Metric]:
        merged: dict[str, Metric] = {}
        for labels, body in self._snapshots:
            for family in msgspec.json.decode(body, type=list[Family]):
                metric = merged.setdefault(family.name, Metric(family.name, family.help, family.type))
                for sample in family.samples:
                    metric.add_sample(sample.name, {**sample.labels, **labels}, sample.value)
        return merged.values()


def configure_logs(settings: LogSettings, service: str) -> None:
    """Send all logs, the libraries' too, to stderr: JSON lines, or text on a terminal."""
    level = getattr(logging, settings.level.upper())
    as_json = settings.format == "json" or (settings.format == "auto" and not sys.stderr.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info if as_json else lambda _logger, _name, event: event,
    ]
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if as_json
        # Rich's tracebacks would show local variables, and so passwords and documents.
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty() and "NO_COLOR" not in os.environ,
            exception_formatter=structlog.dev.plain_traceback,
        )
    )
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    # These say at INFO what our own lines say, or repeat each request.
    for noisy in ("uvicorn.access", "pymongo", "asyncio", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    structlog.contextvars.bind_contextvars(service=service)


def logger(name: str) -> structlog.stdlib.BoundLogger:
    return structlog.stdlib.get_logger(name)
