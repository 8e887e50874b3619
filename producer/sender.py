"""One client process of a load test: sends its share of the requests and reports on stdout.

    python -m producer.sender

It reads one line on stdin, the plan, and starts at the next, `go`; without a plan it ends. It ends when its share is
sent, or at `stop` or the end of stdin, so that it never outlives the run. A process of its own
since one Python process may be slower than the server it measures.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import random
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Final

import msgspec
import uvloop

from producer.client import Client, Target, client_for
from producer.outcome import Outcome, SendError, failure_of, outcome_of
from producer.schedule import Rate, Schedule
from producer.spool import Documents, IdFile
from producer.tally import ACCEPT, BEHIND, FAIL, REFUSE, SERVICE, STORED, Tally

# Timers of the event loop are this coarse. A request may go out that much before it is due;
# its latency then counts from when it went.
_TIMER_SECONDS: Final = 0.001
LATE_SECONDS: Final = 0.010
_REPORT_SECONDS: Final = 1.0
_SAMPLE_WAIT_SECONDS: Final = 30
_SAMPLES_AT_ONCE: Final = 32
_MOST_ATTEMPTS: Final = 8
_RETRY_SECONDS: Final = 0.1
_MOST_RETRY_SECONDS: Final = 10.0


class Plan(msgspec.Struct):
    """All that a sender needs to know.

    Attributes:
        run_id: start of every Idempotency-Key.
        sender: number of this process, of `senders`; request n is sent by process n % senders.
        folder: where the documents lie and where ids and refusals go.
        requests: requests of the whole run, or None for as many as the duration allows.
        documents: documents of the whole run, or None; the last request of a run may hold fewer than `bulk`.
        connections: requests at once of this process.
        rate: requests a second at start and end of the whole run in the open model; None means the closed model.
        sample_every: every so-manieth request is measured until stored; 0 measures none.
    """

    run_id: str
    sender: int
    senders: int
    url: str
    path: str
    token: str
    client: str
    folder: str
    requests: int | None
    documents: int | None
    duration_seconds: float | None
    connections: int
    rate: tuple[float, float] | None
    bulk: int
    retry: bool
    timeout_seconds: float
    sample_every: int
    record_refused: bool


class Sender:
    """Sends one share of a run and counts what became of it."""

    def __init__(
        self, plan: Plan, client: Client, documents: Documents, ids: IdFile, refusals: BinaryIO | None
    ) -> None:
        self._plan = plan
        self._client = client
        self._documents = documents
        self._ids = ids
        self._refusals = refusals
        self._samples: set[asyncio.Task[None]] = set()
        self._stop = False
        self.tally = Tally()

    def stop(self) -> None:
        """Send nothing new."""
        self._stop = True

    async def run(self, started_at: float) -> None:
        """Send the whole share; returns when it is, save for samples. `started_at` is of `perf_counter`."""
        if self._plan.rate is None:
            await self._closed(started_at)
        else:
            await self._open(started_at, self._plan.rate)

    async def samples_stored(self) -> None:
        """Return when no sampled document is waited for any more."""
        if self._samples:
            await asyncio.wait(self._samples)

    def _numbers(self) -> Iterator[int]:
        if self._plan.requests is None:
            return itertools.count(self._plan.sender, self._plan.senders)
        return iter(range(self._plan.sender, self._plan.requests, self._plan.senders))

    async def _closed(self, started_at: float) -> None:
        """Keep so many requests under way: each is sent when the one before it is answered."""
        numbers = self._numbers()
        duration = self._plan.duration_seconds
        end = float("inf") if duration is None else started_at + duration

        async def lane() -> None:
            for number in numbers:
                if self._stop or time.perf_counter() >= end:
                    return
                await self._send(number, due=None)

        async with asyncio.TaskGroup() as lanes:
            for _ in range(self._plan.connections):
                lanes.create_task(lane())

    async def _open(self, started_at: float, rate: tuple[float, float]) -> None:
        """Send each request when it is due, whatever became of the ones before it."""
        plan = self._plan
        assert plan.requests is not None
        assert plan.duration_seconds is not None
        schedule = Schedule(Rate(*rate), plan.requests, plan.duration_seconds)
        free = asyncio.Semaphore(plan.connections)

        async def arrival(number: int, due: float) -> None:
            try:
                await self._send(number, due)
            finally:
                free.release()

        async with asyncio.TaskGroup() as arrivals:
            for number in self._numbers():
                due = started_at + schedule.due(number)
                wait = due - time.perf_counter()
                while wait > _TIMER_SECONDS and not self._stop:
                    # In short sleeps, so that a slow schedule still stops at once.
                    await asyncio.sleep(min(wait - _TIMER_SECONDS / 2, 0.25))
                    wait = due - time.perf_counter()
                if self._stop:
                    return
                if free.locked():
                    # The server is behind, not we: what is late from here on is its doing.
                    self.tally.counts.waited_requests += 1
                else:
                    self.tally.latency(BEHIND, max(0.0, -wait))
                    self.tally.counts.late_requests += -wait > LATE_SECONDS
                await free.acquire()
                arrivals.create_task(arrival(number, due))

    async def _send(self, number: int, due: float | None) -> None:
        """Send request `number` and count what became of it."""
        plan = self._plan
        first = number * plan.bulk
        end = first + plan.bulk
        if plan.documents is not None:
            end = min(end, plan.documents)
        if plan.sample_every and number % plan.sample_every == 0 and len(self._samples) < _SAMPLES_AT_ONCE:
            # Apart from its lane, for it takes as long as the stores do. Its document goes alone,
            # also in bulk mode: only of one document the door can say when it is stored.
            sample = asyncio.create_task(self._sample(f"{plan.run_id}-{number}s", first, due))
            self._samples.add(sample)
            sample.add_done_callback(self._samples.discard)
            first += 1
            if first == end:
                return
        body = self._documents.body(first) if plan.bulk == 1 else self._block(first, end)
        sent_at = time.perf_counter()
        outcome = await self._post(f"{plan.run_id}-{number}", body, first, end - first, bulk=plan.bulk > 1)
        now = time.perf_counter()
        since = sent_at if due is None or due > sent_at else due
        if outcome.ids:
            self.tally.latency(ACCEPT, now - since)
            self.tally.latency(SERVICE, now - sent_at)
        else:
            self.tally.latency(FAIL if outcome.failed else REFUSE, now - since)

    async def _sample(self, key: str, number: int, due: float | None) -> None:
        self.tally.counts.sampled_requests += 1
        since = time.perf_counter() if due is None else min(due, time.perf_counter())
        outcome = await self._post(
            key, self._documents.body(number), number, 1, bulk=False, wait_seconds=_SAMPLE_WAIT_SECONDS
        )
        if outcome.stored:
            self.tally.latency(STORED, time.perf_counter() - since)

    def _block(self, first: int, end: int) -> bytes:
        return b"\n".join([self._documents.body(number) for number in range(first, end)])

    async def _post(
        self, key: str, body: bytes, first: int, documents: int, *, bulk: bool, wait_seconds: int = 0
    ) -> Outcome:
        """Post documents `first`… and count their outcome; a retry has the same key, so it stores nothing twice."""
        self.tally.sent(documents, len(body))
        for attempt in itertools.count(1):
            retry_after = None
            try:
                answer = await self._client.post(key, body, bulk=bulk, wait_seconds=wait_seconds)
                outcome = outcome_of(answer, documents, bulk=bulk)
                retry_after = answer.retry_after_seconds
                again = answer.status in (429, 503)
            except SendError as error:
                outcome = failure_of(error, documents)
                again = True
            if not (again and self._plan.retry) or attempt == _MOST_ATTEMPTS or self._stop:
                break
            self.tally.counts.retried_requests += 1
            await asyncio.sleep(_retry_wait(attempt, retry_after, spread=random.random()))
        self.tally.outcome(outcome)
        for identity in outcome.ids:
            self._ids.add(identity)
        if outcome.refused and self._refusals:
            self._write_refusals(outcome, first)
        return outcome

    def _write_refusals(self, outcome: Outcome, first: int) -> None:
        assert self._refusals is not None
        for refusal in outcome.refused:
            line = {
                "row": self._documents.row(first + refusal.index),
                "status": refusal.status,
                "reason": refusal.reason,
                "errors": refusal.errors,
            }
            self._refusals.write(msgspec.json.encode(line) + b"\n")


def _retry_wait(attempt: int, retry_after_seconds: float | None, *, spread: float) -> float:
    """Return the seconds before the next attempt: what the server asked for, else growing, half of it by chance.

    All attempts together outlast the restart of a gateway.
    """
    if retry_after_seconds is not None:
        return min(retry_after_seconds, _MOST_RETRY_SECONDS) + spread * _RETRY_SECONDS
    return float(min(_RETRY_SECONDS * 2**attempt, _MOST_RETRY_SECONDS)) * (1 + spread) / 2


def starved_seconds() -> float:
    """Return how long this process was ready to run while others had the CPUs; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    # Ctrl-C reaches the whole process group; the parent tells us when to stop.
    loop.add_signal_handler(signal.SIGINT, lambda: None)
    commands = asyncio.StreamReader(limit=1 << 22)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    line = await commands.readline()
    if not line:  # the run ended before it began
        return
    plan = msgspec.json.decode(line, type=Plan)
    folder = Path(plan.folder)
    target = Target(plan.url, plan.path, plan.token)
    with ExitStack() as files:
        ids = files.enter_context(IdFile(folder / f"ids-{plan.sender}"))
        refusals = None
        if plan.record_refused:
            refusals = files.enter_context((folder / f"refused-{plan.sender}").open("ab"))
        async with client_for(plan.client, target, timeout_seconds=plan.timeout_seconds) as client:
            sender = Sender(plan, client, Documents(folder), ids, refusals)
            _say(b'{"ready":true}')
            # What is here by now stays, so the collector need not look at it during the run.
            gc.freeze()
            if await commands.readline() != b"go\n":
                return
            await _run(sender, plan.sender, commands, ids)


async def _run(sender: Sender, number: int, commands: asyncio.StreamReader, ids: IdFile) -> None:
    started_at = time.perf_counter()
    cpu_before, starved_before = time.process_time(), starved_seconds()

    sending = True

    def report(*, final: bool = False) -> None:
        # Ids first: a report never speaks of an accepted document whose id could still be lost.
        ids.flush()
        interval = sender.tally.take(
            number,
            time.perf_counter() - started_at,
            cpu_seconds=time.process_time() - cpu_before,
            starved_seconds=starved_seconds() - starved_before,
            sending=sending,
            final=final,
        )
        _say(msgspec.json.encode(interval))

    async def report_every_second() -> None:
        for second in itertools.count(1):
            await asyncio.sleep(max(0.0, started_at + second * _REPORT_SECONDS - time.perf_counter()))
            report()

    async def stop_when_told() -> None:
        await commands.readline()
        sender.stop()

    helpers = [asyncio.create_task(report_every_second()), asyncio.create_task(stop_when_told())]
    try:
        await sender.run(started_at)
        report()
        sending = False
        await sender.samples_stored()
    finally:
        for helper in helpers:
            helper.cancel()
        report(final=True)


def _say(line: bytes) -> None:
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    uvloop.run(_serve())
