"""A careful client: writes down what it is about to send, sends it, writes down what it learnt, tries again.

Always under the same key. Now and then it gives a request up: a refused one must then never appear,
an unknown one may.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from producer.client import Client, Target, client_for
from producer.outcome import Answer, SendError, outcome_of
from tests.faults.journal import FAIL, OK, UNKNOWN, Intent, Journal, Outcome, Result
from tests.faults.payload import PIPELINE, payload

_GIVEN_UP: Final = {FAIL: 0.2, UNKNOWN: 0.1}
_LONGEST_WAIT_SECONDS: Final = 1.0
_UNKNOWN_CODES: Final = frozenset({"", "outcome_unknown"})


@dataclass
class Producer:
    """One client with a journal of its own; sends one request after the other.

    Attributes:
        name: prefix of its documents' names and keys.
        bulk: documents in one request, drawn from this range; 1 and 1 sends singles.
        sent: documents whose request has been settled or given up.
        gives_up: whether it ever gives a request up.
        last_accepted_begun: when the last request that was promised left, on the monotonic clock.
    """

    name: str
    seed: int
    client: Client
    journal: Journal
    bulk: tuple[int, int] = (1, 1)
    gives_up: bool = False
    sent: int = 0
    accepted: int = 0
    last_accepted_begun: float = 0.0

    def __post_init__(self) -> None:
        self._draw = random.Random(f"{self.seed}/{self.name}")
        self._requests = self._count = 0

    async def run(self, stop: asyncio.Event, *, per_second: float = 0.0) -> None:
        """Send until told to stop, at most so many documents a second; 0 sets no limit."""
        began, before = time.monotonic(), self.sent
        while not stop.is_set():
            await self.send()
            if per_second and (ahead := (self.sent - before) / per_second - (time.monotonic() - began)) > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(ahead):
                        await stop.wait()

    async def send(self, deadline_seconds: float = 600.0) -> Result:
        """Send one request until it is promised, or given up; return what is known then."""
        self._count = self._draw.randint(*self.bulk)
        self._requests += 1
        return await self._send(self._requests - 1, self._count, deadline_seconds)

    async def again(self) -> Result:
        """Send the last request once more, as it was."""
        return await self._send(self._requests - 1, self._count, 600.0)

    async def _send(self, request: int, count: int, deadline_seconds: float) -> Result:
        names = [f"{self.name}-{request}-{number}" for number in range(count)]
        key = f"{self.name}-{request}"
        bodies = [payload(self.seed, name).body for name in names]
        deadline = time.monotonic() + deadline_seconds
        unknown = False
        while True:
            begun = time.monotonic()
            bulk = self.bulk != (1, 1)
            outcome = await attempt(self.client, self.journal, key, names, bodies, bulk=bulk)
            if outcome.result == OK:
                self.accepted += count
                self.last_accepted_begun = begun
                break
            unknown |= outcome.result == UNKNOWN
            weary = self.gives_up and self._draw.random() < _GIVEN_UP[UNKNOWN if unknown else FAIL]
            if weary or time.monotonic() > deadline:
                break
            # A real client would wait as it is told; here a second at most, to meet the system in each of its states.
            wait = min(outcome.retry_after_seconds or 0.2, _LONGEST_WAIT_SECONDS)
            await asyncio.sleep(wait * self._draw.uniform(0.1, 1.0))
        self.sent += count
        return OK if outcome.result == OK else UNKNOWN if unknown else FAIL


async def attempt(
    client: Client, journal: Journal, key: str, names: Sequence[str], bodies: Sequence[bytes], *, bulk: bool
) -> Outcome:
    """Send once; both the intent and the outcome are in the journal then."""
    journal.write(Intent(key, list(names)))
    began = time.monotonic()
    try:
        answer = await client.post(key, b"\n".join(bodies), bulk=bulk)
    except SendError as error:
        result: Result = UNKNOWN if error.unknown else FAIL
        outcome = Outcome(key, result, 0, error.reason, None, time.monotonic() - began)
    else:
        outcome = _outcome(key, answer, len(bodies), time.monotonic() - began, bulk=bulk)
    journal.write(outcome)
    return outcome


def _outcome(key: str, answer: Answer, documents: int, seconds: float, *, bulk: bool) -> Outcome:
    found = outcome_of(answer, documents, bulk=bulk)
    ids = [f"{i[:4].hex()}-{i[4:6].hex()}-{i[6:8].hex()}-{i[8:10].hex()}-{i[10:].hex()}" for i in found.ids]
    code = found.failure or (found.refused[0].reason if found.refused else "")
    named = len(found.refused) == documents and code not in _UNKNOWN_CODES
    result: Result = UNKNOWN
    if len(ids) == documents:
        result = OK
    elif not ids and (400 <= answer.status < 500 or (answer.status == 503 and named)):
        result = FAIL
    return Outcome(key, result, answer.status, code, answer.retry_after_seconds, seconds, ids)


@contextlib.asynccontextmanager
async def open_producers(
    folder: Path,
    seed: int,
    url: str,
    token: str,
    *,
    singles: int,
    bulks: int,
    bulk: tuple[int, int] = (20, 250),
    prefix: str = "",
    gives_up: bool = False,
) -> AsyncIterator[list[Producer]]:
    """Give producers that send one by one, and such that send many at once; their journals go to the folder."""
    # The client that the load tester uses; a time-out is an outcome like another.
    client = client_for("raw", Target(url, f"/v1/documents/{PIPELINE}", token), timeout_seconds=12)
    kinds = [(f"{prefix}s{n}", (1, 1)) for n in range(singles)] + [(f"{prefix}b{n}", bulk) for n in range(bulks)]
    async with client:
        with contextlib.ExitStack() as journals:
            producers = []
            for name, size in kinds:
                journal = journals.enter_context(contextlib.closing(Journal(folder / f"{name}.jsonl")))
                producers.append(Producer(name, seed, client, journal, size, gives_up))
            yield producers


@contextlib.asynccontextmanager
async def sending(producers: Sequence[Producer], per_second: float = 30.0) -> AsyncIterator[None]:
    """Let all send while the body runs, each request until it is promised; at the end none is on its way."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        for one in producers:
            tasks.create_task(one.run(stop, per_second=per_second))
        try:
            yield
        finally:
            stop.set()
