"""The sink that writes Postgres, counts what was new in the same transaction, then projects the counts to Redis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from headrace import failpoints, telemetry
from headrace.document import parse_time
from headrace.errors import DocumentError, UnavailableError
from headrace.pipeline import Pipeline
from headrace.rollup import Aggregator, Row, RowKey
from headrace.storage.facts_table import Fact, Known
from headrace.storage.postgres import Facts
from headrace.storage.redis import Projected, Projection
from workers.outcome import Item, Stored, Verdict
from workers.repeats import conflicts, first_of_each, latest_repeats

_decode = msgspec.json.Decoder(dict).decode
log = telemetry.logger(__name__)


class StoreFacts:
    name = "facts"
    store = "postgres"

    def __init__(self, facts: Facts, projection: Projection) -> None:
        self._facts = facts
        self._projection = projection
        self._aggregators: dict[str, Aggregator] = {}

    async def apply(self, pipeline: Pipeline, items: Sequence[Item]) -> Sequence[Verdict]:
        firsts = first_of_each(items)
        facts = [_fact(item) for item in firsts.values()]

        def counted(new: set[str]) -> dict[RowKey, Row]:
            return self._rows(pipeline, [fact for fact in facts if fact.envelope.id in new])

        changed, known = await self._facts.record(pipeline, facts, counted)
        failpoints.hit("facts.recorded")
        if known:
            # Delivered before: the projection may have been what failed, so what they touch is projected again.
            touched = self._rows(pipeline, [fact for fact in facts if fact.envelope.id in known])
            changed = changed + await self._facts.rollups(pipeline.name, list(touched))
        refused = conflicts(items, firsts, {document_id: one.sha256 for document_id, one in known.items()})
        if known or len(firsts) < len(items):
            repeats = _repeats([item for place, item in enumerate(items) if place not in refused], known)
            await self._facts.record_repeats(pipeline.name, repeats)
        if pipeline.entity and (later := latest_repeats(items, firsts)):
            await self._facts.record(pipeline, [_fact(item) for item in later], lambda _new: {})
        await self._project(pipeline.name, changed)
        failpoints.hit("facts.projected")
        return [refused.get(place, Stored()) for place in range(len(items))]

    def _rows(self, pipeline: Pipeline, facts: Sequence[Fact]) -> dict[RowKey, Row]:
        aggregator = self._aggregators.get(pipeline.name)
        if aggregator is None:
            aggregator = self._aggregators[pipeline.name] = Aggregator(pipeline)
        try:
            return aggregator.rows((fact.document, parse_time(fact.envelope.time)) for fact in facts)
        except (ValueError, TypeError, ArithmeticError) as error:
            raise DocumentError(
                f"The metrics of {pipeline.name} cannot count the document ({type(error).__name__}).",
                code="not_countable",
            ) from error

    async def _project(self, pipeline: str, changed: Sequence[Projected]) -> None:
        if not changed:
            return
        try:
            await self._projection.project(pipeline, changed)
            telemetry.store_up.labels("redis").set(1)
        except UnavailableError as error:
            # Postgres has the truth; Redis is repaired from it as soon as it is back (workers/projection.py).
            telemetry.store_up.labels("redis").set(0)
            log.warning("projection_failed", reason=error.detail)
            await self._facts.projection_failed()


def _fact(item: Item) -> Fact:
    return Fact(item.envelope, item.block, _decode(item.envelope.data))


def _repeats(items: Sequence[Item], known: Mapping[str, Known]) -> list[tuple[str, str, int, str, str]]:
    """Return what a client sent again, as (block, id, ordinal, when accepted, sender).

    A document that comes again in the block and at the ordinal it was stored from is not a repeat but a redelivery,
    also where both come in one batch: a clean block is published twice when its raw block's ack was lost.
    """
    stored_from = {document_id: (one.block, one.ordinal) for document_id, one in known.items()}
    repeats = []
    for item in items:
        envelope = item.envelope
        place = (item.block, envelope.ordinal)
        if stored_from.setdefault(envelope.id, place) != place:
            repeats.append((item.block, envelope.id, envelope.ordinal, envelope.time, envelope.subject))
    return repeats
