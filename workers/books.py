"""The stages that keep the ledger's books in Postgres: `journal` of the accepted, `dead` of the refused."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec

from headrace import failpoints
from headrace.document import ACCEPTED_HEADER, DeadLetter, check_dead_letter, dead_letters, derived_id
from headrace.identity import BARE_SENDER
from headrace.messaging.consumer import Delivery
from headrace.storage.postgres import Facts
from headrace.tally import Tally, told

# Settler.announce: stage, pipeline, ids.
Announce = Callable[[str, str, Sequence[str]], Awaitable[None]]


class Journal:
    """Notes every accepted block once, from its headers alone; apart from refine, so it sees what refine would lose."""

    name = "journal"
    store = "postgres"

    def __init__(self, facts: Facts) -> None:
        self._facts = facts

    async def note(self, deliveries: Sequence[Delivery]) -> None:
        await self._facts.record_journal(
            [(d.block.id, d.block.pipeline, d.block.count, d.stored_at, _told(d)) for d in deliveries]
        )
        failpoints.hit("journal.noted")


class DeadIndex:
    """Indexes dead letters, to be listed, grouped and counted; then tells who waits for those documents."""

    name = "dead"
    store = "postgres"

    def __init__(self, facts: Facts, announce: Announce) -> None:
        self._facts = facts
        self._announce = announce

    async def note(self, deliveries: Sequence[Delivery]) -> None:
        letters = [letter for delivery in deliveries for letter in _letters(delivery)]
        await self._facts.record_dead(letters)
        failpoints.hit("dead.noted")
        by_pipeline: dict[str, list[str]] = {}
        for letter in letters:
            by_pipeline.setdefault(letter.pipeline, []).append(letter.id)
        for pipeline, ids in by_pipeline.items():
            await self._announce(self.name, pipeline, ids)


def _told(delivery: Delivery) -> Mapping[str, Tally]:
    """Return which documents came in each minute; nothing where it is not known."""
    if delivery.bare:
        return {delivery.stored_at[:16]: Tally.of([delivery.block.id])}
    found = told(delivery.headers.get(ACCEPTED_HEADER, ""))
    # Two headers that say different things are believed neither.
    return found if sum(one.count for one in found.values()) == delivery.block.count else {}


def _letters(delivery: Delivery) -> list[DeadLetter]:
    """Return the dead letters of a block; of one that holds none, itself as one, so that somebody sees it."""
    block = delivery.block
    try:
        found = dead_letters(block.body)
        for letter in found:
            check_dead_letter(letter)
    except (msgspec.DecodeError, ValueError, RecursionError):
        whole = DeadLetter(
            id=derived_id("block", block.id),
            pipeline=block.pipeline,
            stage=DeadIndex.name,
            code="malformed_block",
            reason="A block of DEAD holds something else than dead letters.",
            attempts=delivery.attempt,
            time=delivery.stored_at,
            subject=BARE_SENDER,
            block=block.id,
            ordinal=0,
            dead_at=delivery.stored_at,
            body=block.body,
        )
        return [whole]
    return found
