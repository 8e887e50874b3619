"""Three times the peak for a minute: the accepted stay near the peak, the refused are refused fast and honestly.

`make faults ARGS=--overload`. Requests leave when they are due, whatever became of those before; a refused one comes
again later under its key. The client shares the machine with all that it measures, and is itself as busy as the
gateway: how long an answer takes is told by an onlooker, a process that has nothing else to do.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from producer.client import Client, RawClient, Target
from tests.faults.checker import Violation, check
from tests.faults.journal import FAIL, OK, Journal, Outcome, read
from tests.faults.observe import observe
from tests.faults.onlooker import BULK, onlooking
from tests.faults.payload import PIPELINE, payload
from tests.faults.producer import attempt
from tests.faults.report import answered_in, outcomes
from tests.faults.stack import QUICK, Stack, open_stack
from tests.servers import reachable_directory

TIMES: Final = 3
GOODPUT_SHARE: Final = 0.8
RSS_BYTES: Final = 1 << 30
_PEAK_SECONDS: Final = 12.0
# Nearly fills the room; more would be refused.
_PEAK_AT_ONCE: Final = 48
_TIMEOUT_SECONDS: Final = 60.0
# The embedded MongoDB server stores slower than the door takes, and counts a million documents for a minute.
_DRAINED_SECONDS: Final = 1800.0
# Some hundred milliseconds of work: what waits longer than that is refused instead.
_IN_FLIGHT_DOCUMENTS: Final = "5000"


@dataclass
class Request:
    """One bulk that is sent until it is promised."""

    key: str
    names: list[str]
    bodies: list[bytes]


@dataclass
class Load:
    """Sends requests and knows when each was promised."""

    client: Client
    journal: Journal
    seed: int
    made: int = 0
    promised: list[tuple[float, int]] = field(default_factory=list)

    def request(self) -> Request:
        key = f"o{self.made}"
        self.made += 1
        names = [f"{key}-{number}" for number in range(BULK)]
        return Request(key, names, [payload(self.seed, name).body for name in names])

    async def send(self, request: Request) -> Outcome:
        outcome = await attempt(self.client, self.journal, request.key, request.names, request.bodies, bulk=True)
        if outcome.result == OK:
            self.promised.append((time.monotonic(), len(request.names)))
        return outcome

    def rate(self, since: float, until: float) -> float:
        """Return the documents promised a second between two moments."""
        return sum(count for at, count in self.promised if since <= at < until) / (until - since)


async def overload_run(seed: int, minutes: float, say: Callable[[str], None]) -> dict[str, Any]:
    with reachable_directory() as directory:
        environment = {**QUICK, "HEADRACE_GATEWAY__IN_FLIGHT_DOCUMENTS": _IN_FLIGHT_DOCUMENTS}
        async with open_stack(directory, workers={"workers": ()}, environment=environment, proxied=False) as stack:
            path, onlookers = directory / "overload.jsonl", directory / "onlooker.jsonl"
            journal = Journal(path)
            target = Target(stack.url, f"/v1/documents/{PIPELINE}", stack.token)
            async with RawClient(target, _TIMEOUT_SECONDS) as client:
                load = Load(client, journal, seed)
                peak = await _peak(load)
                say(f"peak {peak:.0f} documents/s")
                # Made before, since making documents costs as much as taking them.
                waiting = deque(load.request() for _ in range(int(1.3 * peak * 60 * minutes / BULK) + 50))
                say(f"{len(waiting)} requests made")
                async with onlooking(stack.url, stack.token, onlookers, seed):
                    goodput, refused = await _overload(stack, load, waiting, peak, 60 * minutes)
                say(
                    f"goodput {goodput:.0f} documents/s, {goodput / peak:.2f} of the peak; {refused} refusals; draining"
                )
            journal.close()
            seen = answered_in(list(read([onlookers])))
            say(f"an onlooker was {seen}")
            caught_up = await stack.caught_up(_DRAINED_SECONDS)
            lines = list(read([path, onlookers]))
            observed = await observe(
                stack.stores,
                seed,
                lines,
                caught_up_seconds=caught_up,
                caught_up_limit_seconds=_DRAINED_SECONDS,
                balanced=caught_up is not None and await stack.balanced(_DRAINED_SECONDS),
            )
    violations = check(observed)
    rss = max(one.rss_bytes for one in stack.usages if one.process == "gateway")
    if goodput < GOODPUT_SHARE * peak:
        violations.append(Violation("I6", f"goodput {goodput:.0f} of a peak of {peak:.0f} documents/s", 1))
    if not refused:
        violations.append(Violation("I6", "nothing was refused: it was no overload", 1))
    if rss > RSS_BYTES:
        violations.append(Violation("I8", f"the gateway took {rss >> 20} MiB", 1))
    return {
        "seed": seed,
        "peak_documents_per_second": round(peak),
        "offered_documents_per_second": round(TIMES * peak),
        "goodput_documents_per_second": round(goodput),
        "goodput_share": round(goodput / peak, 3),
        "gateway_rss_mib": rss >> 20,
        "an_onlooker": seen,
        **outcomes(lines, observed),
        "caught_up_seconds": caught_up,
        "violations": [str(one) for one in violations],
    }


async def _peak(load: Load) -> float:
    """Return what is accepted when there is always a next request, and never too many."""
    began = time.monotonic()

    async def one_after_another() -> None:
        while time.monotonic() < began + _PEAK_SECONDS:
            await load.send(load.request())

    await asyncio.gather(*(one_after_another() for _ in range(_PEAK_AT_ONCE)))
    return load.rate(began + 2, began + _PEAK_SECONDS)


async def _overload(
    stack: Stack, load: Load, waiting: deque[Request], peak: float, seconds: float
) -> tuple[float, int]:
    """Offer a multiple of the peak; return the documents accepted a second, and how many requests were refused."""
    refused = 0
    began = time.monotonic()
    due = 0

    async def send(request: Request) -> None:
        nonlocal refused
        outcome = await load.send(request)
        if outcome.result != OK:
            refused += outcome.result == FAIL
            waiting.append(request)

    async with asyncio.TaskGroup() as tasks:
        while (elapsed := time.monotonic() - began) < seconds:
            wanted = int(TIMES * peak * elapsed / BULK)
            while due < wanted and waiting:
                tasks.create_task(send(waiting.popleft()))
                due += 1
            if int(elapsed) % 2 == 0:
                stack.look()
            await asyncio.sleep(0.01)
    return load.rate(began + 5, began + seconds), refused
