"""kill -9 of every process in turn under load: the books balance afterwards, without a hand on it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from decimal import Decimal
from functools import partial

import pytest

from tests.servers import reachable_directory
from tests.system.stores import mongo_ids, once_each, postgres_ids, redis_counts, rollup_counts, rollup_sums
from tests.system.system import SETTLED_SECONDS, System, up
from tests.system.test_exactly_once import line
from tests.waiting import eventually

VICTIMS = ("gateway", "workers", "nats", "postgres", "valkey", "mongo", "analytics", "auth")
COUNTRIES = ("Norway", "Peru", "Chad", "Fiji")


class Client:
    """A client that keeps a journal of what was accepted; singles and bulks, each under a key of its own."""

    def __init__(self, system: System, name: str) -> None:
        self.system = system
        self.name = name
        self.accepted: dict[str, dict[str, object]] = {}
        self.sent = 0

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            many = self.sent % 4 == 0
            documents = [self._next() for _ in range(25 if many else 1)]
            body = b"\n".join(json.dumps(one).encode() for one in documents)
            answer = await self.system.submit("invoices", body, key=f"{self.name}-{self.sent}", bulk=many)
            ids = [item["id"] for item in answer["items"]] if many else [answer["id"]]
            self.accepted.update(zip(ids, documents, strict=True))
            self.sent += 1

    def _next(self) -> dict[str, object]:
        number = len(self.accepted)
        return line(f"{self.name}-{number}", Country=COUNTRIES[number % 4], Quantity=number % 9 + 1, UnitPrice="1.10")


@pytest.mark.long
async def test_killing_any_process_under_load_loses_and_doubles_nothing() -> None:
    with reachable_directory() as directory:
        async with up(directory) as system:
            clients = [Client(system, f"c{number}") for number in range(6)]
            stop = asyncio.Event()
            async with asyncio.TaskGroup() as tasks:
                for client in clients:
                    tasks.create_task(client.run(stop))
                for victim in VICTIMS:
                    before = _accepted(clients)
                    await system.kill(victim)
                    # The load goes on through it: the next victim is due once more has been accepted.
                    await eventually(partial(_more_than, clients, before + 200), seconds=SETTLED_SECONDS)
                stop.set()
            books = await system.drained("invoices")
            await system.ready()
            await _proven(system, {k: v for client in clients for k, v in client.accepted.items()}, dict(books))


def _accepted(clients: list[Client]) -> int:
    return sum(len(client.accepted) for client in clients)


async def _more_than(clients: list[Client], number: int) -> bool:
    return _accepted(clients) > number


async def _proven(system: System, accepted: dict[str, dict[str, object]], books: dict[str, object]) -> None:
    assert books["balanced"], books
    assert books["dead"] == 0, books
    # A request whose outcome the client never learnt was sent again under its key, so it is in the set too.
    assert once_each(await mongo_ids(system.facts, "invoices")) == set(accepted)
    assert once_each(await postgres_ids(system.facts, "invoices")) == set(accepted)
    expected = Counter(json.dumps([document["Country"]]) for document in accepted.values())
    assert await rollup_counts(system.facts, "invoices", "lines_by_country") == expected
    assert await redis_counts(system.facts, "invoices", "lines_by_country") == expected
    revenue: dict[str, Decimal] = {}
    for document in accepted.values():
        key = json.dumps([document["Country"]])
        amount = Decimal(str(document["Quantity"])) * Decimal(str(document["UnitPrice"]))
        revenue[key] = revenue.get(key, Decimal(0)) + amount
    assert await rollup_sums(system.facts, "invoices", "revenue_by_country") == revenue
