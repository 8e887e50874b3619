"""Makes MongoDB anew from CLEAN while all goes on: in a shadow, compared with what is there, then swapped in."""

from __future__ import annotations

from dataclasses import dataclass

from headrace import failpoints
from headrace.messaging.connection import Bus
from headrace.pipeline import Pipeline
from headrace.settings import Settings
from headrace.storage.mongo import Documents
from headrace.storage.postgres import Facts
from workers.clean_reading import Reading, purged, refused_by
from workers.documents import StoreDocuments


@dataclass(frozen=True)
class DocumentsDifference:
    """How MongoDB differed from CLEAN, in documents.

    Attributes:
        documents: how many there are now.
        missing, wrong, foreign: not in MongoDB though its stage has settled them; with other bytes; in MongoDB alone.
    """

    pipeline: str
    documents: int
    missing: int
    wrong: int
    foreign: int

    @property
    def none(self) -> bool:
        return not (self.missing or self.wrong or self.foreign)


async def rebuild_documents(
    bus: Bus, settings: Settings, facts: Facts, documents: Documents, pipeline: Pipeline, *, swap: bool
) -> DocumentsDifference:
    """Make a pipeline's documents anew; return how those that were there differed.

    The stage may go on: what it stores meanwhile came by CLEAN, and is read from there once more after the swap.

    Args:
        swap: whether the shadow takes its place; else it is only compared.

    Raises:
        RebuildError: CLEAN has been purged, and does not hold all of these documents any more.
        UnavailableError: NATS, Postgres or MongoDB is away; after the swap, a second run stores what is missing.
    """
    refused = await refused_by(facts, pipeline, StoreDocuments.name)
    shadow = documents.shadow()
    await shadow.drop(pipeline)
    await shadow.prepare(pipeline)
    reading = Reading(bus, settings, pipeline, StoreDocuments.name, refused)
    try:
        settled = await reading.settled()
        await reading.to_the_end(StoreDocuments(shadow))
        made = dict([one async for one in shadow.digests(pipeline)])
        late = reading.later_than(settled)
        live = dict([one async for one in documents.digests(pipeline)])
        # Whatever was in MongoDB by then had been in CLEAN before.
        await reading.to_the_end(StoreDocuments(shadow))
        there = dict([one async for one in shadow.digests(pipeline)])
        difference = DocumentsDifference(
            pipeline.name,
            len(there),
            missing=sum(one not in live and one not in late for one in made),
            wrong=sum(live[one] != sha256 for one, sha256 in made.items() if one in live),
            foreign=sum(one not in there for one in live),
        )
        if difference.foreign and await reading.purged():
            raise purged(pipeline, difference.foreign)
        failpoints.hit("rebuild.made", "documents")
        if swap:
            await documents.replace_by(shadow, pipeline)
            failpoints.hit("rebuild.swapped", "documents")
            await reading.to_the_end(StoreDocuments(documents))
    finally:
        await shadow.drop(pipeline)
    return difference
