"""Rows straight to JetStream: the same rules, ids and blocks as at the door, and a clear end where the bus is away."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import pytest
from pydantic import BaseModel, SecretStr

from headrace.document import Envelope, envelopes
from headrace.identity import document_id
from headrace.messaging.connection import Bus, connect
from headrace.pipeline import Pipeline
from headrace.schema import validate
from headrace.settings import NatsSettings, Settings
from headrace.topology import Topology, ensure
from pipelines.invoices import invoices
from producer.formats import Row
from producer.outlets import attempts
from producer.outlets.direct import open_direct
from producer.samples import sample
from producer.sources import read
from producer.upload import Progress, RefusedRow, UploadError, flowing, upload


class Thing(BaseModel):
    name: str


things = Pipeline(name="things", accepts=Thing, key=("name",), example={"name": "a"})


@pytest.fixture
async def bus(settings: Settings) -> AsyncIterator[Bus]:
    async with connect(settings, "test") as bus:
        yield bus


async def sent(settings: Settings, pipeline: Pipeline, rows: Iterable[Row]) -> tuple[Progress, list[RefusedRow]]:
    progress, refused = Progress(), list[RefusedRow]()
    async with open_direct(settings, pipeline, "source", "job:test") as outlet:
        await upload(outlet, flowing(rows), refuse=refused.append, progress=progress, advance=lambda _: None)
    return progress, refused


async def raw(bus: Bus, settings: Settings) -> list[list[Envelope]]:
    """Return the documents of every block that is on disk."""
    js, stream = bus.client.jetstream(), Topology(settings.namespace).stream("RAW")
    count = (await js.stream_info(stream)).state.messages
    messages = [await js.get_msg(stream, number) for number in range(1, count + 1)]
    return [envelopes(message.data or b"") for message in messages]


async def test_rows_come_in_blocks_under_the_ids_of_their_names(bus: Bus, settings: Settings) -> None:
    await ensure(bus, settings)
    path = sample("invoices")
    assert path is not None
    rows = list(read("invoices", path))

    first, refused = await sent(settings, invoices, rows)
    again, _ = await sent(settings, invoices, rows)
    blocks = await raw(bus, settings)

    assert (first.rows, first.accepted, first.refused) == (200, 194, 6)
    assert first == again
    assert {error["code"] for row in refused for error in row.errors} == {"missing", "unreadable_row"}
    assert [len(block) for block in blocks] == [194, 194]
    assert [one.id for one in blocks[0]] == [one.id for one in blocks[1]]
    assert {one.subject for one in blocks[0]} == {"job:test"}
    document = validate(invoices, bytes(blocks[0][0].data))
    assert blocks[0][0].id == document_id(invoices, "job:test", document, "source/1")


async def test_a_natural_key_comes_before_a_row_s_name(bus: Bus, settings: Settings) -> None:
    await ensure(bus, settings)

    await sent(settings, things, [Row(1, {"name": "a"}), Row(2, {"name": "a"}), Row(3, {"name": "b"})])
    ((one, two, three),) = await raw(bus, settings)

    assert one.id == two.id != three.id


async def test_what_the_door_would_refuse_is_refused_by_field(bus: Bus, settings: Settings) -> None:
    await ensure(bus, settings)
    rows = [
        Row(1, {"name": 5}),
        Row(2, {}),
        Row(3, {"name": "x" * 300_000}),
        Row(4, {"name": "\x00"}),
        Row(5, {"name": "b"}),
    ]

    progress, refused = await sent(settings, things, rows)

    assert (progress.accepted, progress.refused) == (1, 4)
    assert [(row.row, row.errors[0]["pointer"], row.errors[0]["code"]) for row in refused] == [
        (1, "/name", "string_type"),
        (2, "/name", "missing"),
        (3, "", "too_large"),
        (4, "/name", "nul_character"),
    ]


async def test_without_streams_nothing_is_accepted_and_it_says_why(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "MOST_ATTEMPTS", 2)
    monkeypatch.setattr(attempts, "_MOST_ASKED_SECONDS", 0.01)

    with pytest.raises(UploadError, match="in 2 attempts: No stream takes this subject"):
        await sent(settings, things, [Row(1, {"name": "a"})])


async def test_a_bus_that_is_away_is_named(tmp_path: Path) -> None:
    away = Settings(nats_url=SecretStr("nats://127.0.0.1:1"), nats=NatsSettings(down_seconds=0.1))

    with pytest.raises(UploadError, match="Check HEADRACE_NATS_URL"):
        await sent(away, things, [Row(1, {"name": "a"})])
