"""Counts what the ledger is made of. Dear, since tables are counted row by row, so it is bounded in how often."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from analytics.consumers import Consumers, Lag
from analytics.health import Health
from analytics.ledger import line
from headrace.document import now
from headrace.errors import UnavailableError
from headrace.registry import Pipelines
from headrace.storage.mongo import Documents
from headrace.storage.postgres import Facts
from headrace.tasks import end

_LEAST_SECONDS: Final = 1.0
# A count that takes long is made seldom: the stores give it at most a fifth of their time, and MongoDB, which
# counts slowest, less than that while it has documents to store.
_REST: Final = 5.0
_BUSY_REST: Final = 20.0
# A count that nothing has changed since is believed for so long, but not for ever: somebody may delete by hand.
_BELIEVED_SECONDS: Final = 60.0


class Bookkeeper:
    """Args:
    documents, facts: with the patience that counting millions of rows takes.
    """

    def __init__(
        self, documents: Documents, facts: Facts, consumers: Consumers, health: Health, pipelines: Pipelines
    ) -> None:
        self._facts = facts
        self._consumers = consumers
        self._health = health
        self._pipelines = pipelines
        self._counting: asyncio.Task[dict[str, Any]] | None = None
        self._last: dict[str, Any] | None = None
        self._due_at = 0.0
        self._stored = _Stored(documents, pipelines)

    async def ledger(self, wait_seconds: float) -> dict[str, Any]:
        """Return {pipelines, at, asked_at, reconciled, backlog}, a moment old at most; older where counting takes long.

        `at` is when the count began, `asked_at` when this was called: who needs books of after a moment asks once more
        until `at` is no earlier than the first `asked_at`.

        Raises:
            UnavailableError: a store or JetStream is away, or the first count is not done yet.
        """
        asked_at = now()
        if self._counting is None or (self._counting.done() and time.monotonic() >= self._due_at):
            self._counting = asyncio.create_task(self._count())
        counting = self._counting
        try:
            async with asyncio.timeout(wait_seconds):
                return {**await asyncio.shield(counting), "asked_at": asked_at}
        except TimeoutError:
            if self._last is not None:
                return {**self._last, "asked_at": asked_at}
            raise UnavailableError(
                "The books are being counted.", code="ledger_pending", retry_after_seconds=wait_seconds
            ) from None

    async def close(self) -> None:
        if self._counting is not None:
            await end(self._counting)

    async def _count(self) -> dict[str, Any]:
        started, at = time.monotonic(), now()
        try:
            # Patience is for stores that count, not for those that are away.
            self._health.require("mongo", "postgres")
            before = await self._consumers.sample()
            books, (in_mongo, up_to_date) = await asyncio.gather(
                self._facts.books(list(self._pipelines.values())), self._stored.counts(before["documents"])
            )
            after = await self._consumers.sample()
            lags = during(before, after)
            if not up_to_date:
                # What was stored since the count is missing from it, and that is no loss.
                lags["documents"] = replace(lags["documents"], pending=lags["documents"].pending + 1)
            self._last = {
                "pipelines": {
                    name: line(of_one, in_mongo.get(name, 0), lags) for name, of_one in sorted(books.items())
                },
                "at": at,
                "reconciled": await self._facts.reconciled(),
                "backlog": {
                    stage: {"pending": lag.pending, "ack_pending": lag.ack_pending} for stage, lag in after.items()
                },
            }
            return self._last
        finally:
            self._due_at = time.monotonic() + max(_LEAST_SECONDS, _REST * (time.monotonic() - started))


class _Stored:
    """How many documents MongoDB holds; counted anew only when it may be another number, and not too often then."""

    def __init__(self, documents: Documents, pipelines: Pipelines) -> None:
        self._documents = documents
        self._pipelines = pipelines
        self._counts: Mapping[str, int] = {}
        self._counted_with: Lag | None = None
        self._counted_at = 0.0
        self._took_seconds = 0.0

    async def counts(self, lag: Lag) -> tuple[Mapping[str, int], bool]:
        """Return the counts by pipeline, and whether they are of now.

        Args:
            lag: of the documents stage, sampled before.
        """
        started = time.monotonic()
        if self._counted_with is not None:
            age = started - self._counted_at
            if lag == self._counted_with and not lag.busy and age < _BELIEVED_SECONDS:
                return self._counts, True
            if age < self._took_seconds * (_BUSY_REST if lag.busy else _REST):
                return self._counts, False
        counts = [await self._documents.count(pipeline) for pipeline in self._pipelines.values()]
        self._counts = dict(zip(self._pipelines, counts, strict=True))
        self._counted_with = lag
        self._counted_at = time.monotonic()
        self._took_seconds = self._counted_at - started
        return self._counts, True


def during(before: Mapping[str, Lag], after: Mapping[str, Lag]) -> dict[str, Lag]:
    """Return what each stage had before it at some time of the count: the stores are not counted all at one moment.

    A stage that settled blocks meanwhile was busy, even if it was idle at both ends.
    """
    lags = {}
    for stage, one in after.items():
        earlier = before[stage]
        moved = abs(one.settled - earlier.settled)
        lags[stage] = replace(
            one,
            pending=max(one.pending, earlier.pending),
            ack_pending=max(one.ack_pending, earlier.ack_pending, moved),
        )
    return lags
