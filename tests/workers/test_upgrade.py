"""Versions of a pipeline work on each other's backlog, there and back: nothing is lost, nothing is refused for good."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from headrace.errors import UnavailableError
from headrace.messaging.mesh import ask
from headrace.settings import SchemaSettings, Settings
from headrace.storage.postgres import open_facts
from headrace.tokens import PRINCIPAL_HEADER, Principal
from tests.analytics.system import System, open_system
from tests.invariants import assert_balanced
from tests.waiting import eventually
from tests.workers.plant import open_plant
from tests.workers.test_reconcile import open_bench

ADA = Principal("ada", frozenset({"dead:write"}), "key1", "", 253402300799).encode()
OLD = """
from pydantic import BaseModel, ConfigDict
from headrace.pipeline import Count, Pipeline


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str


parts = Pipeline(name="parts", accepts=Part, example={"name": "a"}, metrics=[Count("total"), Count("names", by="name")])
"""
NEW = OLD.replace("    name: str\n", '    name: str\n    colour: str = "none"\n')


@contextlib.asynccontextmanager
async def version(settings: Settings, folder: Path, source: str) -> AsyncIterator[System]:
    """Give a system whose pipeline is this, deployed as one is told that rolls back."""
    _write(folder, source)
    told = {"pipelines": folder, "schemas": SchemaSettings(allow_incompatible=True)}
    async with open_system(settings.model_copy(update=told)) as system:
        yield system


async def test_versions_take_each_others_backlog_and_what_the_old_one_refuses_is_given_back_to_the_new(
    settings: Settings, tmp_path: Path
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    async with version(settings, old, OLD) as system:
        sent = await system.submit("parts", {"name": "a"}, {"name": "b"})
        await system.work("refine", "journal")
        # One half of the backlog is refined by the old one and stored by the new one, the other is all the new one's.
        sent += await system.submit("parts", {"name": "c"})

    async with version(settings, new, NEW) as system:
        await system.work()
        assert await stored(system) == sorted(sent)
        sent += await system.submit("parts", {"name": "d", "colour": "red"})
        await system.work("refine", "journal")
        late = await system.submit("parts", {"name": "e", "colour": "red"}, {"name": "f"})

    async with version(settings, old, OLD) as system:
        # Rolled back: what the new one had refined is stored; of what it had accepted, the old one refuses a part.
        await system.work()
        sent.append(late[1])
        assert await stored(system) == sorted(sent)
        assert await letters(system) == [(late[0], "refine", "invalid_document", "dead")]

    async with version(settings, new, NEW) as system, system.workers():
        await replay(system, late[0])
        await system.drained()
        await system.until("metric", {"value": 6}, pipeline="parts", metric="total", limit=None)
        assert await stored(system) == sorted([*sent, late[0]])
        assert [state for *_, state in await letters(system)] == ["replayed"]
        await assert_balanced(system.settings)


def _write(folder: Path, source: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "parts.py").write_text(source)


async def stored(system: System) -> list[str]:
    return sorted(str(row["id"]) for row in await sql(system, "SELECT id FROM facts.parts"))


async def letters(system: System) -> list[tuple[str, ...]]:
    found = await sql(system, "SELECT document_id, stage, code, state FROM dead_letters")
    return [(str(row["document_id"]), row["stage"], row["code"], row["state"]) for row in found]


async def sql(system: System, query: str) -> list[Any]:
    async with open_facts(system.settings.postgres_url.get_secret_value(), 10) as facts:
        return await facts.fetch(query)


async def test_a_metric_that_is_added_counts_what_there_was_once_counts_are_repaired(
    settings: Settings, tmp_path: Path
) -> None:
    own = settings.model_copy(update={"pipelines": tmp_path})
    async with open_plant(own) as plant:
        _write(tmp_path, OLD)
        async with plant.workers():
            await plant.submit("parts", {"name": "a"}, {"name": "b"})
            await plant.drained()
        _write(tmp_path, OLD.replace("metrics=[", 'metrics=[Count("again", by="name"), '))
        async with plant.workers():
            await plant.submit("parts", {"name": "a"})
            await plant.drained()
            async with open_bench(plant) as bench:
                found = await bench.run("parts", counts=True, repair=True)
                assert {(one.kind, one.where, one.repaired) for one in found.findings} >= {("counts", "rollups", True)}
                assert (await bench.run("parts", counts=True)).findings == []
            rows = await plant.fetch("SELECT key, count FROM rollups WHERE metric = 'again' ORDER BY key")
            assert [tuple(row) for row in rows] == [('["a"]', 2), ('["b"]', 1)]
            await assert_balanced(own)


async def replay(system: System, document_id: str) -> None:
    """Give a dead letter back as Ada, once there is a worker to do it."""

    async def asked() -> Any:
        reply = await ask(
            *(system.bus, system.settings.namespace, "workers", "dead.replay"),
            json.dumps({"ids": [document_id]}).encode(),
            headers={PRINCIPAL_HEADER: ADA},
            timeout_seconds=10,
        )
        return json.loads(reply.body)

    answer = await eventually(asked, passing=(UnavailableError,))
    await system.until("dead.replay", {"state": "done"}, id=answer["id"])
