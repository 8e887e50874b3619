"""What became of a document: clients that wait are told by the sinks' own events."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Final, Literal

import nats.errors
from nats.aio.msg import Msg

from headrace.document import id_bytes
from headrace.messaging.connection import Bus
from headrace.topology import Topology

State = Literal["accepted", "stored", "dead"]

SINKS: Final = frozenset({"documents", "facts"})


class Waiter:
    """One document that somebody waits for."""

    __slots__ = ("_sinks", "done")

    def __init__(self) -> None:
        self._sinks: set[str] = set()
        self.done: asyncio.Future[State] = asyncio.get_running_loop().create_future()

    def heard(self, what: str) -> None:
        if self.done.done():
            return
        if what == "dead":
            self.done.set_result("dead")
            return
        self._sinks.add(what)
        if self._sinks >= SINKS:
            self.done.set_result("stored")

    @property
    def state(self) -> State:
        return self.done.result() if self.done.done() else "accepted"


class Receipts:
    """Use `open_receipts`.

    Attributes:
        on_stored: told the pipeline whenever a sink has stored anything of it.
    """

    def __init__(self) -> None:
        self.on_stored: list[Callable[[str], None]] = []
        self._waiting: dict[bytes, list[Waiter]] = {}

    @contextlib.contextmanager
    def expect(self, ids: Sequence[str]) -> Iterator[list[Waiter]]:
        """Listen for these documents; begin before they are sent, or their news could be missed."""
        waiters = [(id_bytes(document_id), Waiter()) for document_id in ids]
        for key, waiter in waiters:
            self._waiting.setdefault(key, []).append(waiter)
        try:
            yield [waiter for _, waiter in waiters]
        finally:
            for key, waiter in waiters:
                left = self._waiting.get(key, [])
                left.remove(waiter)
                if not left:
                    del self._waiting[key]

    @staticmethod
    async def settled(waiters: Sequence[Waiter], seconds: float) -> list[State]:
        """Return each document's state once all are stored or dead, or when the time is over."""
        await asyncio.wait([waiter.done for waiter in waiters], timeout=seconds)
        return [waiter.state for waiter in waiters]

    async def _heard(self, message: Msg) -> None:
        _, what, pipeline = message.subject.rsplit(".", 2)
        if what in SINKS:
            for tell in self.on_stored:
                tell(pipeline)
        if not self._waiting:
            return
        body = message.data
        for start in range(0, len(body), 16):
            for waiter in self._waiting.get(body[start : start + 16], ()):
                waiter.heard(what)


@contextlib.asynccontextmanager
async def open_receipts(bus: Bus, topology: Topology) -> AsyncIterator[Receipts]:
    receipts = Receipts()
    subscription = await bus.client.subscribe(topology.stored("*", "*"), cb=receipts._heard)
    try:
        yield receipts
    finally:
        with contextlib.suppress(nats.errors.Error):
            await subscription.unsubscribe()
