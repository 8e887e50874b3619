"""Calls to stores that are cancelled at any moment: no connection is lost or mixed up, and nothing counts twice."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
import pytest

from headrace.document import Envelope, digest, new_id, now
from headrace.pipeline import Pipeline
from headrace.registry import load_pipelines
from headrace.storage.mongo import open_documents
from headrace.storage.postgres import open_facts
from headrace.storage.redis import open_projection
from tests.workers.plant import Plant
from workers.documents import StoreDocuments
from workers.facts import StoreFacts
from workers.outcome import Item, Stored

# Each call is cancelled some turns of the loop later than the one before, until several in a row are done before that.
STEP_TURNS = 3
DONE_IN_A_ROW = 5
# As many awaits as a write has, at the least.
LEAST_CANCELLED = 10
CONNECTIONS = 2


@pytest.mark.parametrize("sink", ["facts", "documents"])
async def test_a_write_cancelled_at_any_await_is_done_right_by_the_next(plant: Plant, sink: str) -> None:
    settings = plant.settings
    things = load_pipelines(settings.pipelines)["things"]
    async with (
        open_documents(settings.mongo_url.get_secret_value(), 20) as documents,
        open_facts(settings.postgres_url.get_secret_value(), 20, max_connections=CONNECTIONS) as facts,
        open_projection(settings.redis_url.get_secret_value(), settings.namespace, 10) as projection,
    ):
        await facts.prepare([things])
        await documents.prepare(things)
        stages: dict[str, StoreFacts | StoreDocuments] = {
            "facts": StoreFacts(facts, projection),
            "documents": StoreDocuments(documents),
        }
        trials = cancelled = done = 0
        while done < DONE_IN_A_ROW:
            items = [item(f'{{"name":"{trials}-{n}","group":"g","size":{n},"tags":["t"]}}') for n in range(3)]
            call = asyncio.create_task(applied(stages[sink], things, items))
            for _ in range(STEP_TURNS * trials):
                await asyncio.sleep(0)
            call.cancel()
            await asyncio.wait([call])
            trials += 1
            cancelled += call.cancelled()
            done = 0 if call.cancelled() else done + 1
            # Both, as if the block were delivered again.
            for stage in stages.values():
                async with asyncio.timeout(20):
                    await applied(stage, things, items)
        leaked = await facts.fetch(
            "SELECT state FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'"
        )

        counted = {
            metric: (
                [(row.count, row.value) async for portion in facts.all_rollups("things", metric) for row in portion],
                [(row.count, row.value) for row in await projection.read("things", metric)],
            )
            for metric in ("total", "groups", "tags", "least")
        }

    assert cancelled >= LEAST_CANCELLED
    assert leaked == []
    assert len(await plant.stored("things")) == 3 * trials
    once = [(3 * trials, None)]
    assert counted == {
        "total": (once, once),
        "groups": (once, once),
        "tags": (once, once),
        "least": ([(3 * trials, 0)],) * 2,
    }


async def applied(stage: StoreFacts | StoreDocuments, pipeline: Pipeline, items: Sequence[Item]) -> None:
    assert await stage.apply(pipeline, items) == [Stored()] * len(items)


def item(body: str) -> Item:
    data = body.encode()
    stored = b'{"price":null,"at":null,"weight":0.5,"filler":"",' + data[1:]
    return Item(Envelope(new_id(), now(), "me", msgspec.Raw(stored), sha256=digest(data)), new_id())
