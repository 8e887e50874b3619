"""`headrace schema check`: another schema tried on what the streams hold, on a real server."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field, create_model

from cli.schema_check import Findings, check
from headrace.document import Block, DeadLetter, dead_letter_lines, json_text, new_id, now, raw_line
from headrace.messaging.connection import Bus, connect
from headrace.messaging.publisher import Publisher, open_publisher
from headrace.messaging.schemas import register
from headrace.pipeline import Pipeline
from headrace.settings import Settings
from headrace.topology import Topology, ensure
from tests.messaging.conftest import forget, on
from tests.servers import Servers, in_own_task
from tests.system.system import ROOT

FILE = """
from pydantic import BaseModel, Field
from headrace.pipeline import Pipeline

class Thing(BaseModel):
    name: str
    size: int{rule}

things = Pipeline(name="things", accepts=Thing, example={{"name": "a", "size": 1}})
"""


def things(**fields: Any) -> Pipeline:
    model: type[BaseModel] = create_model("Thing", **fields)
    return Pipeline(name="things", accepts=model, example={"name": "a", "size": 1})


FIRST = things(name=(str, ...), size=(int, ...))
NARROWER = things(name=(str, ...), size=(int, Field(ge=0)))
WIDER = things(name=(str, ...), size=(int | str, ...))


class Streams:
    """RAW and DEAD, filled by hand."""

    def __init__(self, settings: Settings, bus: Bus, publisher: Publisher) -> None:
        self.settings = settings
        self.bus = bus
        self._publisher = publisher
        self._topology = Topology(settings.namespace)

    async def accepted(self, *documents: Any) -> list[str]:
        ids = [new_id() for _ in documents]
        pairs = zip(ids, documents, strict=True)
        lines = [raw_line(one, now(), b'"me"', json_text(document)) for one, document in pairs]
        block = Block(new_id(), "things", b"".join(lines), len(lines))
        await self._publisher.publish(self._topology.raw("things"), block.body, block.headers(block.id))
        return ids

    async def bare(self, body: bytes) -> None:
        await self._publisher.publish(self._topology.ingest("things"), body, {})

    async def dead(self, document: Any, stage: str = "refine") -> str:
        letter = DeadLetter(
            *(new_id(), "things", stage, "invalid_document", "No.", 1, now(), "me", new_id(), 0, now()),
            body=json_text(document),
        )
        body = b"".join(dead_letter_lines([letter]))
        await self._publisher.publish(self._topology.dead("things"), body, {"Nats-Msg-Id": letter.id})
        return letter.id

    async def check(self, pipeline: Pipeline) -> Findings:
        return await check(self.bus, self.settings, pipeline, lambda _: None)


@pytest.fixture
async def streams(servers: Servers) -> AsyncIterator[Streams]:
    settings = on(servers)
    async with in_own_task(connect(settings, "test")) as bus:
        await ensure(bus, settings)
        async with open_publisher(bus, 5) as publisher:
            yield Streams(settings, bus, publisher)
    await forget(settings)


async def test_what_would_newly_fail_is_counted_by_rule_with_ids(streams: Streams) -> None:
    await register(streams.bus, streams.settings, [FIRST])
    ids = [*await streams.accepted(*({"name": "a", "size": size} for size in (3, -1, 0, -2))), *await streams.accepted(
        *({"name": "a", "size": -size} for size in range(1, 4))
    )]  # fmt: skip
    await streams.bare(b'{"name":"b","size":-9}')

    same, narrower = await streams.check(FIRST), await streams.check(NARROWER)

    assert (same.documents, same.newly_failing, same.sound) == (8, 0, True)
    assert (narrower.registered, narrower.documents, narrower.newly_failing) == (1, 8, 6)
    assert [error.code for error in narrower.broken] == ["range_narrowed"]
    [rule] = narrower.rules.values()
    assert (rule.pointer, rule.code, rule.count) == ("/size", "greater_than_equal", 6)
    assert rule.samples == [ids[1], ids[3], ids[4]]


async def test_what_was_refused_is_tried_as_a_dead_letter_and_not_as_a_document(streams: Streams) -> None:
    refused = [{"name": "a", "size": "big"}, {"size": 1}]
    await streams.accepted({"name": "a", "size": 1}, *refused)
    ids = [await streams.dead(document) for document in refused]
    await streams.dead({"name": "a", "size": 1}, stage="facts")

    found = await streams.check(WIDER)

    assert (found.documents, found.newly_failing) == (1, 0)
    assert (found.letters, found.newly_passing, found.passing) == (2, 1, [ids[0]])
    assert found.sound


async def test_more_than_one_batch_is_read_to_its_end(streams: Streams) -> None:
    for _ in range(3):
        await asyncio.gather(*(streams.accepted({"name": "x" * 30_000, "size": 1}) for _ in range(100)))

    found = await streams.check(FIRST)

    assert (found.documents, found.newly_failing) == (300, 0)


async def test_the_command_says_it_in_json_and_tells_no_content(streams: Streams, tmp_path: Path) -> None:
    [bad] = await streams.accepted({"name": "secret", "size": -7})
    await register(streams.bus, streams.settings, [FIRST])
    await asyncio.to_thread((tmp_path / "things.py").write_text, FILE.format(rule=" = Field(ge=0)"))

    code, out = await _command(streams.settings, tmp_path, "check", "things", "--file", str(tmp_path / "things.py"))

    assert code == 1
    assert json.loads(out) == {
        "pipeline": "things",
        "registered_version": 1,
        "compatible": False,
        "breaks": [
            {
                "pointer": "/accepts/size",
                "code": "range_narrowed",
                "message": "It must be >= 0 and had to be anything.",
            }
        ],
        "documents": 1,
        "newly_failing": 1,
        "rules": [
            {
                "pointer": "/size",
                "code": "greater_than_equal",
                "message": "Input should be greater than or equal to 0.",
                "count": 1,
                "samples": [bad],
            }
        ],
        "dead_letters": 0,
        "newly_passing": 0,
        "passing_samples": [],
        "unreadable_blocks": 0,
    }


async def _command(settings: Settings, folder: Path, *arguments: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli", "schema", *arguments, "--json"),
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "HEADRACE_NATS_URL": settings.nats_url.get_secret_value(),
            "HEADRACE_NAMESPACE": settings.namespace,
        },
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    return process.returncode or 0, out.decode()


async def test_a_service_ends_with_the_reason_where_its_pipeline_breaks_the_schema(
    streams: Streams, tmp_path: Path
) -> None:
    await register(streams.bus, streams.settings, [FIRST])
    await asyncio.to_thread((tmp_path / "things.py").write_text, FILE.format(rule=" = Field(ge=0)"))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli", "workers", "refine"),
        cwd=ROOT,
        env={
            **os.environ,
            "HEADRACE_NATS_URL": streams.settings.nats_url.get_secret_value(),
            "HEADRACE_NAMESPACE": streams.settings.namespace,
            "HEADRACE_PIPELINES": str(tmp_path),
            "HEADRACE_LOG__FORMAT": "json",
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()

    assert process.returncode == 1
    last = json.loads(out.splitlines()[-1])
    assert last["event"] == "service_ended"
    assert "The schema of 'things' breaks version 1" in last["reason"]
    assert "/accepts/size: It must be >= 0" in last["reason"]
