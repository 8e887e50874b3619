"""Looking ids up in real stores: what the proof after a run rests on."""

from __future__ import annotations

import hashlib
from uuid import UUID

import msgspec
import pytest
from pydantic import BaseModel

from headrace.document import DeadLetter, Envelope, new_id, now
from headrace.errors import UnavailableError
from headrace.pipeline import Pipeline
from headrace.settings import Settings
from headrace.storage.facts_table import Fact
from headrace.storage.mongo import open_documents
from headrace.storage.postgres import open_facts
from producer.prove import look_up
from producer.stores import open_stores


class Thing(BaseModel):
    name: str


EVENTS = Pipeline(name="things", accepts=Thing, example={"name": "a"})
ENTITIES = Pipeline(name="parts", accepts=Thing, example={"name": "a"}, entity=True, key=("name",))


@pytest.mark.parametrize("pipeline", [EVENTS, ENTITIES])
async def test_stored_dead_and_missing_documents_are_told_apart(settings: Settings, pipeline: Pipeline) -> None:
    mongo_url, postgres_url = settings.mongo_url.get_secret_value(), settings.postgres_url.get_secret_value()
    block = new_id()
    # All versions of one entity, or all different events.
    everywhere, only_mongo, dead, replayed, nowhere = envelopes = [
        Envelope(new_id(), now(), "me", msgspec.Raw(b"{}"), hashlib.sha256(b"{}").hexdigest()) for _ in range(5)
    ]
    async with open_documents(mongo_url, 10) as documents, open_facts(postgres_url, 10) as facts:
        await facts.prepare([pipeline])
        await documents.insert(pipeline, [(one, block, {"name": "x"}) for one in (everywhere, only_mongo, replayed)])
        stored = [Fact(one, block, {"name": "x"}) for one in (everywhere, replayed)]
        await facts.record(pipeline, stored, lambda new: {})
        letters = [
            DeadLetter(one.id, pipeline.name, "refine", "invalid", "r", 1, now(), "me", block, 0, now(), b"{}")
            for one in (dead, replayed)
        ]
        await facts.record_dead(letters)
        await facts.fetch("UPDATE dead_letters SET state = 'replayed' WHERE document_id = $1", UUID(replayed.id))

    async with open_stores(mongo_url, postgres_url, pipeline.name, entity=pipeline.entity) as stores:
        found = await look_up([[UUID(one.id).bytes for one in envelopes]], stores.sinks, stores.dead)

    assert (found.stored, found.dead, found.duplicated) == (2, 1, 0)
    assert found.stored_by == {"documents": 2, "facts": 2}
    assert found.missing == [UUID(one.id).bytes for one in (only_mongo, nowhere)]


async def test_a_store_that_is_away_is_said_to_be() -> None:
    with pytest.raises(UnavailableError, match="Postgres"):
        async with open_stores("mongodb://127.0.0.1:1/x", "postgresql://x@127.0.0.1:1/x", "things", entity=False):
            pass
