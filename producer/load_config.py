"""What one load test is to do, and what is seen of it while it runs."""

from __future__ import annotations

import math
import os
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
# What one process sends with ease; beyond it another is started.
_EASY_RATE: Final = {"aiohttp": 3000, "raw": 15000}
_MOST_PROCESSES: Final = 8


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
    def senders(self) -> int:
        """Return how many client processes there are to be; a short run may need fewer."""
        return min(self._processes(), self.connections)

    def _processes(self) -> int:
        if self.processes is not None:
            return self.processes
        cpus = os.cpu_count() or 1
        if self.rate is None:
            # Half of the machine, for the server may be on it too.
            return max(1, min(cpus // 2, _MOST_PROCESSES))
        highest = max(self.rate.start, self.rate.end)
        return max(1, min(math.ceil(highest / _EASY_RATE[self.client]), cpus, _MOST_PROCESSES))

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
