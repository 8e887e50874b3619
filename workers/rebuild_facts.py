"""Makes facts and counts in Postgres anew from CLEAN: in a shadow, compared with what is there, then swapped in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from headrace import failpoints
from headrace.messaging.connection import Bus
from headrace.pipeline import Pipeline
from headrace.settings import Settings
from headrace.storage.facts_shadow import open_shadow
from headrace.storage.postgres import Facts
from headrace.storage.redis import Projected, Projection
from workers.clean_reading import Reading, purged, refused_by
from workers.facts import StoreFacts
from workers.rebuild import rebuild_redis


@dataclass(frozen=True)
class FactsDifference:
    """How Postgres differed from CLEAN, in documents, and in rows of counts.

    Attributes:
        facts: how many there are now.
        missing, wrong, foreign: not in Postgres though the stage has settled them; with other bytes; there alone.
        counts: rows of counts that were others, or not there; what is on its way makes some of them differ, too.
    """

    pipeline: str
    facts: int
    missing: int
    wrong: int
    foreign: int
    counts: int

    @property
    def none(self) -> bool:
        return not (self.missing or self.wrong or self.foreign or self.counts)


async def rebuild_facts(
    bus: Bus,
    settings: Settings,
    facts: Facts,
    projection: Projection,
    pipeline: Pipeline,
    timeout_seconds: float,
    *,
    swap: bool,
) -> FactsDifference:
    """Make a pipeline's facts and counts anew; return how those that were there differed.

    The stage waits only for the end of it: the last blocks are read, compared and swapped in one transaction.

    Args:
        swap: whether the shadow takes its place; else it is only compared.

    Raises:
        RebuildError: CLEAN has been purged, and does not hold all of these documents any more.
        UnavailableError: NATS, Postgres or Redis is away; nothing was changed, or Redis is repaired by the workers.
    """
    refused = await refused_by(facts, pipeline, StoreFacts.name)
    reading = Reading(bus, settings, pipeline, StoreFacts.name, refused)
    url = settings.postgres_url.get_secret_value()
    async with open_shadow(facts, url, pipeline, timeout_seconds) as shadow:
        sink = StoreFacts(shadow.facts, cast(Projection, _Nowhere()))
        await reading.to_the_end(sink)
        settled = await reading.settled()
        async with facts.transaction() as connection:
            await shadow.lock(connection)
            # Whatever is in Postgres by now was in CLEAN before, and nothing comes to it while this runs.
            await reading.to_the_end(sink)
            late = list(reading.later_than(settled))
            difference = FactsDifference(pipeline.name, *await shadow.difference(connection, late))
            if difference.foreign and await reading.purged():
                raise purged(pipeline, difference.foreign)
            failpoints.hit("rebuild.made", "facts")
            if swap:
                await shadow.swap(connection)
        if swap:
            failpoints.hit("rebuild.swapped", "facts")
            await rebuild_redis(facts, projection, pipeline, swap=True)
    return difference


class _Nowhere:
    """A projection that nobody reads."""

    async def project(self, _pipeline: str, _rows: Sequence[Projected]) -> None:
        return
