"""What one load test is to do, and what is seen of it while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from producer.schedule import Rate
from producer.tally import Totals
from producer.target import Headrace
from producer.thresholds import Threshold

_CLOSED_CONNECTIONS: Final = 50
# Below the 1,024 open files that most shells allow.
_OPEN_CONNECTIONS: Final = 500


@dataclass(frozen=True, slots=True)
class LoadConfig:
    """One run.

    Attributes:
        requests, duration_seconds: where the run ends; with a file and neither, when all its rows are sent.
        rate: requests a second, which makes it an open-model run.
        concurrency: requests under way at once: exactly so many (closed model), at most (open model).
        bulk: documents in one request, as NDJSON.
        file: where documents come from; else they are generated.
        bodies: JSON texts to send, for callers that have their own.
        bad_share: part of the generated documents that the schema refuses.
        processes: client processes; None chooses.
        retry: send again, under the same key, what was answered 429 or 503 or not at all.
        refused_file: gets a JSON line for each refused document.
        settle_seconds: after so long without progress, what is accepted and not stored is missing.
        sample: measure the time to stored on some of the documents.
    """

    headrace: Headrace
    pipeline: str
    requests: int | None = None
    duration_seconds: float | None = None
    rate: Rate | None = None
    concurrency: int | None = None
    bulk: int = 1
    file: Path | None = None
    bodies: Iterable[bytes] | None = field(default=None, repr=False)
    bad_share: float = 0.0
    seed: int = 1
    processes: int | None = None
    client: str = "aiohttp"
    retry: bool = False
    timeout_seconds: float = 30.0
    settle_seconds: float = 60.0
    sample: bool = True
    refused_file: Path | None = None
    thresholds: Sequence[Threshold] = ()

    @property
    def connections(self) -> int:
        if self.concurrency is not None:
            return self.concurrency
        return _CLOSED_CONNECTIONS if self.rate is None else _OPEN_CONNECTIONS


@dataclass(frozen=True, slots=True)
class Progress:
    """What a live view shows; `phase` is prepare, send, sample or prove."""

    config: LoadConfig
    phase: str
    totals: Totals
    elapsed_seconds: float
    note: str = ""


Watch = Callable[[Progress], None]
