"""What goes wrong, and when: drawn from a seed, so that a run can be had again."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import redis.asyncio

from headrace.failpoints import POINTS
from tests.faults.proxy import AWAY, BLACK_HOLE, DEAF, FAIR, MUTE, Proxy, Weather
from tests.faults.stack import SERVERS, Stack

# (kind, weight)
_KINDS: Final = {
    "kill": 5,
    "pause": 4,
    "terminate": 2,
    "delay": 2,
    "black_hole": 2,
    "half_open": 1,
    "deaf": 1,
    "mute": 2,
    "reset": 2,
    "away": 2,
    "stop_store": 1,
    "wipe_redis": 1,
    "die_at": 4,
}
_GAP_SECONDS: Final = (1.0, 6.0)
_LASTS_SECONDS: Final = (0.3, 6.0)
_AT_ONCE: Final = 2
# At which points which process can be told to die.
_STAGED: Final = ("runner.taken", "settle.judged", "settle.published", "settle.acknowledged")
_GATEWAY: Final = ("commit.sealed", "publisher.sent", "publisher.confirmed", "commit.published")


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        target: a process, a link `process-server`, or `process:point`.
        lasts_seconds: until it is mended; 0 where it mends itself.
    """

    kind: str
    target: str
    lasts_seconds: float = 0.0
    number: int = 0


def draw(chance: random.Random, processes: Sequence[str], links: Sequence[str]) -> Fault:
    """Return the next fault."""
    kind = chance.choices(list(_KINDS), list(_KINDS.values()))[0]
    lasts = chance.uniform(*_LASTS_SECONDS)
    match kind:
        case "kill":
            return Fault(kind, chance.choice(processes))
        case "pause":
            return Fault(kind, chance.choice(processes), lasts)
        case "terminate":
            return Fault(kind, chance.choice([name for name in processes if name not in SERVERS]))
        case "stop_store":
            return Fault(kind, chance.choice(SERVERS), lasts)
        case "wipe_redis":
            return Fault(kind, "valkey")
        case "die_at":
            return Fault(kind, chance.choice(_points()), number=chance.randint(1, 4))
        case "reset":
            return Fault(kind, chance.choice(links), lasts, number=chance.choice((1, 200, 5_000, 100_000)))
        case _:
            return Fault(kind, chance.choice(links), lasts)


def _points() -> list[str]:
    stages = ("refine", "documents", "facts", "journal", "dead")
    staged = [f"workers:{point}.{stage}" for point in _STAGED for stage in stages[:3]]
    taken = [f"workers:runner.taken.{stage}" for stage in stages[3:]]
    own = [point for point in POINTS if point not in (*_STAGED, *_GATEWAY, "mongo.versions_inserted", "runner.probing")]
    return [*(f"gateway:{point}" for point in _GATEWAY), *staged, *taken, *(f"workers:{point}" for point in own)]


async def inject(stack: Stack, seed: int, until: float, told: Callable[[Fault], None], limit: int) -> Counter[str]:
    """Let things go wrong, two at once at most, until the time is over; return how many of each kind.

    Args:
        until: on the monotonic clock.
        limit: the most faults.
    """
    chance = random.Random(f"{seed}/faults")
    processes, links = sorted(stack.programs), sorted(stack.proxies)
    done: Counter[str] = Counter()
    room = asyncio.Semaphore(_AT_ONCE)
    busy: set[str] = set()
    async with asyncio.TaskGroup() as tasks:
        while time.monotonic() < until and sum(done.values()) < limit:
            await asyncio.sleep(chance.uniform(*_GAP_SECONDS))
            fault = draw(chance, processes, links)
            place = fault.target.partition(":")[0]
            if place in busy:
                continue
            await room.acquire()
            busy.add(place)
            told(fault)
            done[fault.kind] += 1

            def over(_task: object, place: str = place) -> None:
                busy.discard(place)
                room.release()

            tasks.create_task(_happen(stack, fault)).add_done_callback(over)
    return done


async def _happen(stack: Stack, fault: Fault) -> None:
    match fault.kind:
        case "kill":
            stack.signal(fault.target, signal.SIGKILL)
        case "terminate":
            stack.signal(fault.target, signal.SIGTERM)
        case "pause":
            if stack.signal(fault.target, signal.SIGSTOP):
                await asyncio.sleep(fault.lasts_seconds)
                stack.signal(fault.target, signal.SIGCONT)
        case "stop_store":
            await stack.supervisor.stop(fault.target)
            await asyncio.sleep(fault.lasts_seconds)
            await stack.supervisor.start(stack.programs[fault.target])
        case "wipe_redis":
            with contextlib.suppress(redis.exceptions.RedisError, OSError):
                async with redis.asyncio.from_url(stack.stores.redis_url, socket_timeout=5) as client:
                    await client.flushall()
        case "die_at":
            stack.arm(*stack.armed(), f"{fault.target}=kill@{fault.number}")
        case _:
            async with _weather(stack.proxies[fault.target], fault):
                await asyncio.sleep(fault.lasts_seconds)


@contextlib.asynccontextmanager
async def _weather(proxy: Proxy, fault: Fault) -> AsyncIterator[None]:
    match fault.kind:
        case "half_open":
            proxy.half_open()
        case "reset":
            proxy.turn(Weather(reset_after_bytes=fault.number))
        case "delay":
            proxy.turn(Weather(delay_seconds=min(2.0, fault.lasts_seconds)))
        case _:
            proxy.turn({"black_hole": BLACK_HOLE, "deaf": DEAF, "mute": MUTE, "away": AWAY}[fault.kind])
    try:
        yield
    finally:
        proxy.turn(FAIR)
