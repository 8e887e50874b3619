"""The load generator: one process, the fewest instructions a request, so that the server is the limit.

    python -m bench.client < PLAN

Requests are bytes made before the clock starts, and of an answer only status and length are read: a third of
the CPU that the load test's raw client (`producer/client.py`) takes, which matters where both share two cores.
Connections are kept alive and carry one request at a time. What is measured goes to stdout as one line.
"""

from __future__ import annotations

import asyncio
import gc
import json
import re
import resource
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import count, cycle
from pathlib import Path
from typing import Final, cast

import uvloop

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
# Timers of the event loop are this coarse. What goes out that much too early is measured from when it went.
_TIMER_SECONDS: Final = 0.001
_PATIENCE_SECONDS: Final = 30.0


@dataclass(frozen=True)
class Plan:
    """What to send.

    Attributes:
        headers: sent with every request.
        bodies: file with one body a line, sent in turn.
        lines: how many of its lines make one body; more than one are sent as NDJSON.
        connections: requests at once, in the closed model; the most at once in the open one.
        requests: how many requests, or None for as many as `seconds` allow.
        rate: requests a second in the open model; None is the closed one.
        key: start of each request's Idempotency-Key; None sends none.
    """

    host: str
    port: int
    path: str
    headers: dict[str, str]
    bodies: str
    lines: int
    connections: int
    seconds: float | None
    requests: int | None
    rate: float | None
    key: str | None


@dataclass(frozen=True)
class Sent:
    """What came of a plan.

    Attributes:
        statuses: how many answers of each status; 0 stands for none.
        began_at, ended_at: `time.monotonic()` of the first request and of the last answer.
        cpu_seconds: this process's own, in between.
        latencies: (p50, p99, max) in seconds; in the open model since a request was due.
    """

    statuses: dict[str, int]
    began_at: float
    ended_at: float
    cpu_seconds: float
    latencies: tuple[float, float, float]

    @property
    def seconds(self) -> float:
        return self.ended_at - self.began_at

    @property
    def cpu_share(self) -> float:
        return self.cpu_seconds / self.seconds


class _Connection(asyncio.Protocol):
    def __init__(self, load: Load) -> None:
        self._load = load
        self._answer = b""
        self._since = 0.0
        self.busy = False

    def send(self, request: bytes, since: float) -> None:
        self.busy = True
        self._since = since
        self._transport.write(request)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not derive from asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        answer = self._answer + data if self._answer else data
        head = answer.find(b"\r\n\r\n")
        if head >= 0:
            length = _LENGTH.search(answer, 0, head)
            if length is None:
                raise ValueError("an answer without content-length")
            if len(answer) >= head + 4 + int(length[1]):
                self._answer = b""
                self.busy = False
                self._load.answered(self, answer[9:12], self._since)
                return
        self._answer = answer

    def connection_lost(self, _: Exception | None) -> None:
        if self.busy:
            self.busy = False
            self._load.answered(None, b"0", self._since)


class Load:
    """One run of a plan."""

    def __init__(self, plan: Plan, bodies: list[bytes]) -> None:
        self._plan = plan
        self._requests = _requests(plan, bodies)
        self._left = sys.maxsize if plan.requests is None else plan.requests
        self._idle: deque[_Connection] = deque()
        self._overdue: deque[float] = deque()
        self._under_way = 0
        self._ending = False
        self._over = asyncio.Event()
        self._statuses: dict[bytes, int] = {}
        self._latencies: list[float] = []

    async def run(self) -> Sent:
        loop, plan = asyncio.get_running_loop(), self._plan
        for _ in range(plan.connections):
            _, connection = await loop.create_connection(lambda: _Connection(self), plan.host, plan.port)
            self._idle.append(connection)
        # A collection in the client must not count as a slow answer.
        gc.collect()
        gc.disable()
        cpu, began_at = _cpu_seconds(), time.monotonic()
        if plan.seconds is not None:
            loop.call_later(plan.seconds, self._end)
        if plan.rate is None:
            while self._idle and self._left:
                self._send(self._idle.popleft(), time.monotonic())
        else:
            await self._by_schedule(plan.rate, began_at)
            self._end()
        async with asyncio.timeout((plan.seconds or 600.0) + _PATIENCE_SECONDS):
            await self._over.wait()
        ended_at = time.monotonic()
        latencies = sorted(self._latencies) or [0.0]
        p50, p99 = (latencies[min(len(latencies) - 1, int(len(latencies) * share))] for share in (0.50, 0.99))
        return Sent(
            {status.decode(): number for status, number in sorted(self._statuses.items())},
            began_at,
            ended_at,
            _cpu_seconds() - cpu,
            (p50, p99, latencies[-1]),
        )

    def answered(self, connection: _Connection | None, status: bytes, since: float) -> None:
        """Count an answer and, in the closed model, send the next request."""
        now = time.monotonic()
        self._statuses[status] = self._statuses.get(status, 0) + 1
        self._latencies.append(now - since)
        self._under_way -= 1
        if connection is None:
            # What is left would never be sent; the missing answers say that the run is void.
            self._ending = True
        else:
            if self._overdue:
                self._send(connection, self._overdue.popleft())
                return
            if self._plan.rate is None and not self._ending and self._left:
                self._send(connection, now)
                return
            self._idle.append(connection)
        if self._under_way == 0 and (self._ending or not self._left):
            self._over.set()

    async def _by_schedule(self, rate: float, began_at: float) -> None:
        """Send what is due, whatever became of what was sent before; without a free connection it waits, measured."""
        number = 0
        while not self._ending:
            now = time.monotonic()
            while (due := began_at + number / rate) <= now + _TIMER_SECONDS:
                number += 1
                if self._idle:
                    # In turn, so that every connection stays warm.
                    self._send(self._idle.popleft(), min(due, now))
                else:
                    self._overdue.append(due)
            await asyncio.sleep(_TIMER_SECONDS)

    def _send(self, connection: _Connection, since: float) -> None:
        self._left -= 1
        self._under_way += 1
        connection.send(next(self._requests), since)

    def _end(self) -> None:
        self._ending = True
        if not self._under_way:
            self._over.set()


def _requests(plan: Plan, bodies: list[bytes]) -> Iterator[bytes]:
    """Yield requests for ever."""
    kind = "application/json" if plan.lines == 1 else "application/x-ndjson"
    head = f"POST {plan.path} HTTP/1.1\r\nHost: {plan.host}:{plan.port}\r\nContent-Type: {kind}\r\n" + "".join(
        f"{name}: {value}\r\n" for name, value in plan.headers.items()
    )
    tails = [b"Content-Length: %d\r\n\r\n%b" % (len(body), body) for body in bodies]
    if plan.key is None:
        return cycle([head.encode() + tail for tail in tails])
    start = f"{head}Idempotency-Key: {plan.key}-".encode()
    return (b"%b%d\r\n%b" % (start, number, tail) for number, tail in zip(count(), cycle(tails), strict=False))


def _read(plan: Plan) -> list[bytes]:
    lines = Path(plan.bodies).read_bytes().splitlines()
    return [b"\n".join(lines[first : first + plan.lines]) for first in range(0, len(lines), plan.lines)]


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    plan = Plan(**json.load(sys.stdin))
    load = Load.run(Load(plan, _read(plan)))
    json.dump(asdict(uvloop.run(load)), sys.stdout)


if __name__ == "__main__":
    main()
