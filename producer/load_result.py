"""Everything that is known after a load test, and what it says of itself: rates, limits, remarks."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import msgspec

from producer.load_config import LoadConfig
from producer.proof import Proof
from producer.tally import Totals
from producer.thresholds import RATES, Verdict

SCHEMA: Final = "headrace.load/1"

_LATE_SHARE: Final = 0.05
_BUSY_SHARE: Final = 0.95
# CPU use over less than this says nothing of the client.
_SHORT_SECONDS: Final = 1.0


@dataclass(slots=True)
class LoadResult:
    """Everything that is known after a run."""

    config: LoadConfig
    run_id: str
    started_at: str
    elapsed_seconds: float
    processes: int
    total_requests: int | None
    totals: Totals
    proof: Proof
    limits: list[str]
    notes: list[str]
    server_version: str
    thresholds: list[Verdict]

    @property
    def client_limited(self) -> bool:
        return bool(self.limits)

    @property
    def passed(self) -> bool:
        return all(one.passed for one in self.thresholds)

    @property
    def numbers(self) -> dict[str, float | None]:
        """Return the counts and rates that thresholds may name."""
        return numbers(self.totals, self.proof, self.elapsed_seconds)

    def to_json(self) -> dict[str, Any]:
        """Return the report, schema `headrace.load/1`: times in seconds, counts in documents unless named otherwise.

        A field's meaning never changes within a schema number; new fields may come.
        """
        config = self.config
        counts = msgspec.structs.asdict(self.totals.counts)
        return {
            "schema": SCHEMA,
            "run_id": self.run_id,
            "started_at": self.started_at,
            "elapsed_seconds": round(self.elapsed_seconds, 6),
            "config": {
                "url": config.headrace.url,
                "pipeline": config.pipeline,
                "model": "closed" if config.rate is None else "open",
                "rate": None if config.rate is None else str(config.rate),
                "requests": self.total_requests,
                "duration_seconds": config.duration_seconds,
                "concurrency": config.connections,
                "bulk": config.bulk,
                "processes": self.processes,
                "client": config.client,
                "retry": config.retry,
                "timeout_seconds": config.timeout_seconds,
                "source": _source_name(config),
            },
            "machine": {
                "cpus": os.cpu_count(),
                "system": f"{platform.system()} {platform.machine()}",
                "python": platform.python_version(),
                "headrace": _our_version(),
                "server": self.server_version,
            },
            "client_limited": self.client_limited,
            "limits": self.limits,
            "notes": self.notes,
            "counts": counts,
            "rates": {name: self.numbers[name] for name in RATES},
            "refused": dict(self.totals.refused.most_common()),
            "failed": dict(self.totals.failed.most_common()),
            "latencies": {
                name: {**histogram.summary(), "hdr": histogram.encode()}
                for name, histogram in self.totals.latencies.items()
                if histogram.count
            },
            "proof": msgspec.to_builtins(self.proof),
            "thresholds": msgspec.to_builtins(self.thresholds),
            "seconds": msgspec.to_builtins(self.totals.seconds),
        }


def client_limits(totals: Totals, processes: int) -> list[str]:
    """Return why the client itself may have been the limit; empty when it was not. Pure."""
    limits = []
    if len(totals.ended) < processes:
        limits.append("A client process died during the run.")
    counts = totals.counts
    if counts.late_requests > _LATE_SHARE * max(1, counts.requests):
        limits.append(
            f"{counts.late_requests / counts.requests:.0%} of the requests left the client more than 10 ms late"
            " though a connection was free."
        )
    for number, last in sorted(totals.last.items()):
        span = last.until_seconds
        if span < _SHORT_SECONDS:
            continue
        used, wanted = last.cpu_seconds / span, (last.cpu_seconds + last.starved_seconds) / span
        if used > _BUSY_SHARE:
            limits.append(
                f"Client process {number + 1} used {used:.0%} of a CPU: add processes, or use the raw client."
            )
        elif wanted > _BUSY_SHARE:
            limits.append(
                f"Client process {number + 1} wanted {wanted:.0%} of a CPU and got {used:.0%}:"
                " the machine has no CPU left for it."
            )
    return limits


def remarks(totals: Totals, elapsed_seconds: float) -> list[str]:
    """Return what one should know before reading the numbers. Pure."""
    counts, found = totals.counts, []
    if elapsed_seconds < _SHORT_SECONDS:
        found.append("The run took less than a second: its rates and latencies say little.")
    if counts.waited_requests > _LATE_SHARE * max(1, counts.requests):
        found.append(
            f"{counts.waited_requests / counts.requests:.0%} of the requests came due while every connection was busy;"
            " their wait is part of their latency."
        )
    return found


def numbers(totals: Totals, proof: Proof, elapsed_seconds: float) -> dict[str, float | None]:
    """Return the counts and rates that thresholds may name. Pure."""
    counts = totals.counts
    span = max(elapsed_seconds, 1e-9)
    return {
        "sent": counts.sent,
        "accepted": counts.accepted,
        "refused": counts.refused,
        "failed": counts.failed,
        "unknown": counts.unknown,
        "stored": proof.stored,
        "dead": proof.dead,
        "in_flight": proof.in_flight,
        "lost": proof.lost,
        "duplicated": proof.duplicated,
        "rate": counts.accepted / span,
        "requests_rate": counts.requests / span,
        # From the first request until everything was in every store: what the whole system sustains.
        "stored_rate": proof.stored / (span + proof.settle_seconds) if proof.stored and proof.settled else None,
    }


def _source_name(config: LoadConfig) -> str:
    if config.file is not None:
        return config.file.name
    return "given" if config.bodies is not None else f"generator, seed {config.seed}"


def _our_version() -> str:
    try:
        return version("headrace")
    except PackageNotFoundError:
        return "unknown"
