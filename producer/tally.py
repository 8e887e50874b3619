"""What one sender counted in an interval, and the totals of a run that all intervals of all senders add up to.

A sender reports an interval about once a second and starts the next one at zero, so the totals
are plain sums and the last report that arrived before a sender died still counts.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

import msgspec

from producer.latency import Histogram
from producer.outcome import Outcome

# Names that a server makes up could be without end; the rest is counted as one.
_MOST_REASONS: Final = 200
OTHER: Final = "other"
_RECENT_SECONDS: Final = 10

# Latencies by what became of the request: accepted ones in full, the others apart from them.
ACCEPT: Final = "accept"  # to the 202, from when it was due (open model) or sent (closed model)
SERVICE: Final = "service"  # to the 202, from when it was really sent
REFUSE: Final = "refuse"
FAIL: Final = "fail"
STORED: Final = "e2e"  # to stored in every sink, sampled
BEHIND: Final = "behind"  # how late the sender itself sent, open model only
LATENCIES: Final = (ACCEPT, SERVICE, REFUSE, FAIL, STORED, BEHIND)


class Counts(msgspec.Struct):
    """Documents, except where the name says otherwise."""

    requests: int = 0
    sent: int = 0
    accepted: int = 0
    refused: int = 0
    failed: int = 0
    unknown: int = 0  # failed ones that may have been stored all the same
    retried_requests: int = 0
    late_requests: int = 0  # sent more than LATE_SECONDS behind schedule though a connection was free
    waited_requests: int = 0  # due while all connections were busy
    sampled_requests: int = 0  # asked the server to wait until stored
    bytes_sent: int = 0

    def add(self, other: Counts) -> None:
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Interval(msgspec.Struct):
    """One sender's report; latencies are encoded histograms."""

    sender: int
    until_seconds: float  # after the start of the run
    counts: Counts
    refused: dict[str, int]
    failed: dict[str, int]
    latencies: dict[str, str]
    cpu_seconds: float  # of the process, since the start of the run
    starved_seconds: float  # runnable but without a CPU, since the start of the run
    sending: bool = True  # False once only sampled documents are waited for
    final: bool = False


class Tally:
    """Counts one interval of one sender."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self.counts = Counts()
        self.refused: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self._latencies: dict[str, Histogram] = {}

    def latency(self, name: str, seconds: float) -> None:
        histogram = self._latencies.get(name)
        if histogram is None:
            histogram = self._latencies[name] = Histogram()
        histogram.record(seconds)

    def sent(self, documents: int, size_bytes: int) -> None:
        self.counts.requests += 1
        self.counts.sent += documents
        self.counts.bytes_sent += size_bytes

    def outcome(self, outcome: Outcome) -> None:
        counts = self.counts
        counts.accepted += len(outcome.ids)
        if outcome.refused:
            counts.refused += len(outcome.refused)
            for refusal in outcome.refused:
                add_reason(self.refused, refusal.reason, 1)
        if outcome.failed:
            counts.failed += outcome.failed
            add_reason(self.failed, outcome.failure, outcome.failed)
            if outcome.unknown:
                counts.unknown += outcome.failed

    def take(
        self,
        sender: int,
        until_seconds: float,
        *,
        cpu_seconds: float,
        starved_seconds: float,
        sending: bool = True,
        final: bool = False,
    ) -> Interval:
        """Return what was counted since the last call."""
        interval = Interval(
            sender,
            until_seconds,
            self.counts,
            dict(self.refused),
            dict(self.failed),
            {name: histogram.encode() for name, histogram in self._latencies.items()},
            cpu_seconds,
            starved_seconds,
            sending,
            final,
        )
        self._reset()
        return interval


def add_reason(reasons: Counter[str], reason: str, documents: int) -> None:
    reasons[reason if reason in reasons or len(reasons) < _MOST_REASONS else OTHER] += documents


class Second(msgspec.Struct):
    """One second of the series; latencies in seconds, of accepted requests, None where there were none."""

    second: int
    span_seconds: float = 0.0  # less than one where the run ended within it
    sent: int = 0
    accepted: int = 0
    refused: int = 0
    failed: int = 0
    p50: float | None = None
    p99: float | None = None
    max: float | None = None


class Totals:
    """The whole run so far, of all senders."""

    def __init__(self) -> None:
        self.counts = Counts()
        self.refused: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.latencies = {name: Histogram() for name in LATENCIES}
        self.last: dict[int, Interval] = {}  # of each sender, while it was sending
        self.ended: set[int] = set()  # senders whose final report is here: the others are at work, or died
        self._seconds: dict[int, Second] = {}
        # Of the latest seconds only: a histogram takes 140 kB, and nobody reports on a second that is long gone.
        self._recent: dict[int, Histogram] = {}

    def add(self, interval: Interval) -> None:
        self.counts.add(interval.counts)
        for reason, documents in interval.refused.items():
            add_reason(self.refused, reason, documents)
        for reason, documents in interval.failed.items():
            add_reason(self.failed, reason, documents)
        for name, encoded in interval.latencies.items():
            self.latencies[name].add_encoded(encoded)
        if interval.sending:
            self.last[interval.sender] = interval
        if interval.final:
            self.ended.add(interval.sender)
        self._add_second(interval)

    def _add_second(self, interval: Interval) -> None:
        # The report at 3.02 s speaks of the third second, whose number is 2.
        number = max(0, round(interval.until_seconds) - 1)
        second = self._seconds.setdefault(number, Second(number))
        if interval.sending:
            second.span_seconds = max(second.span_seconds, round(interval.until_seconds - number, 3))
        second.sent += interval.counts.sent
        second.accepted += interval.counts.accepted
        second.refused += interval.counts.refused
        second.failed += interval.counts.failed
        if ACCEPT in interval.latencies:
            histogram = self._recent.setdefault(number, Histogram())
            histogram.add_encoded(interval.latencies[ACCEPT])
            self._recent.pop(number - _RECENT_SECONDS, None)
            second.p50, second.p99, second.max = histogram.at(50), histogram.at(99), histogram.highest

    def fail_unanswered(self, reason: str) -> None:
        """Count what was sent and never reported on as failed; for senders that died."""
        counts = self.counts
        missing = counts.sent - counts.accepted - counts.refused - counts.failed
        if missing > 0:
            counts.failed += missing
            counts.unknown += missing
            add_reason(self.failed, reason, missing)

    @property
    def seconds(self) -> list[Second]:
        return [second for _, second in sorted(self._seconds.items())]
