"""A delivery to the documents in it, and by what id each is called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import pytest

from headrace.document import Block, derived_id, json_text, new_id, parse_id, raw_line
from headrace.messaging.consumer import BlockConsumer, Delivery
from headrace.pipeline import Pipeline
from headrace.registry import load_pipelines
from tests.workers.plant import PIPELINES
from workers.unpack import unpack

LOADED = load_pipelines(PIPELINES)
THINGS, PARCELS, MEMBERS = (LOADED[name] for name in ("things", "parcels", "members"))
TIME = "2026-01-01T00:00:00.000000Z"
ID = "01a214f4-dd26-773b-961b-d5295a94eed1"


def delivery(body: bytes, *, bare: bool = False, headers: Mapping[str, str] | None = None, block: str = "") -> Delivery:
    nobody = cast(BlockConsumer, None)
    return Delivery(Block(block or new_id(), "things", body, 1), bare, 1, TIME, dict(headers or {}), "", nobody)


def line(document_id: str, document: Any = None) -> bytes:
    return raw_line(document_id, TIME, b'"me"', json_text(document or {}))


def bare_id(pipeline: Pipeline | None, body: bytes, headers: Mapping[str, str] | None = None, block: str = "b") -> str:
    [item] = unpack(pipeline, delivery(body, bare=True, headers=headers, block=block))
    return item.envelope.id


def test_each_line_is_a_document_and_repeats_are_numbered() -> None:
    a, b = new_id(), new_id()
    one = delivery(line(a) + line(b) + line(a) + line(a))
    items = unpack(THINGS, one)

    assert [(item.envelope.id, item.envelope.ordinal) for item in items] == [(a, 0), (b, 0), (a, 1), (a, 2)]
    assert {item.block for item in items} == {one.block.id}


def test_the_ordinals_of_a_clean_block_stay() -> None:
    a = new_id()
    clean = b'{"id":"%b","time":"%b","subject":"me","sha256":"00","ordinal":5,"data":{}}\n' % (
        a.encode(),
        TIME.encode(),
    )

    assert [item.envelope.ordinal for item in unpack(THINGS, delivery(clean + clean))] == [5, 5]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\n",
        b"no json",
        b"\xff\xfe",
        b"[1]",
        b'{"name":"a"}',
        line("no uuid"),
        line(ID) + line("7"),
        raw_line(ID, "yesterday", b'"me"', b"{}"),
        raw_line(ID, "2026-02-30T00:00:00Z", b'"me"', b"{}"),
    ],
)
def test_what_is_no_block_is_one_document_with_its_very_bytes(body: bytes) -> None:
    first, again = (unpack(THINGS, delivery(body, block="b")) for _ in range(2))
    [item] = first

    assert bytes(item.envelope.data) == body
    assert (item.envelope.time, item.envelope.subject) == (TIME, "nats")
    assert parse_id(item.envelope.id)
    assert first == again


@pytest.mark.parametrize("body", [b'{"name": "a",\r\n "size": 1}', b"no json\n", b"\x00\xff\n", b""])
def test_a_bare_document_keeps_its_bytes(body: bytes) -> None:
    [item] = unpack(THINGS, delivery(body, bare=True))

    assert bytes(item.envelope.data) == body
    assert (item.envelope.time, item.envelope.subject) == (TIME, "nats")


@pytest.mark.parametrize("header", ["Idempotency-Key", "ce-id", "Nats-Msg-Id"])
@pytest.mark.parametrize("pipeline", [THINGS, PARCELS, MEMBERS])
def test_a_publisher_s_key_makes_the_id(pipeline: Pipeline, header: str) -> None:
    body = json_text(dict(pipeline.example))
    one = bare_id(pipeline, body, {header: "k"})

    assert one == bare_id(pipeline, body, {header: "k"}, block="another")
    assert one == derived_id("key", "nats", pipeline.name, "k")
    assert one != bare_id(pipeline, body, {header: "l"})


def test_our_own_header_comes_first() -> None:
    headers = {"Nats-Msg-Id": "n", "ce-id": "c", "Idempotency-Key": "i"}

    assert bare_id(THINGS, b'{"name":"a"}', headers) == bare_id(THINGS, b'{"name":"b"}', {"Idempotency-Key": "i"})


def test_without_a_key_the_block_names_the_document() -> None:
    assert bare_id(THINGS, b'{"name":"a"}') == bare_id(THINGS, b'{"name":"a"}')
    assert bare_id(THINGS, b'{"name":"a"}') != bare_id(THINGS, b'{"name":"a"}', block="another")


def test_a_natural_key_names_the_document() -> None:
    one = bare_id(PARCELS, b'{"number":"1"}')

    assert one == bare_id(PARCELS, b'{"number":"1","weight":2}', block="another")
    assert one != bare_id(PARCELS, b'{"number":"2"}')


def test_versions_of_an_entity_are_documents_of_their_own() -> None:
    one = bare_id(MEMBERS, b'{"number":1,"status":"a"}')

    assert one == bare_id(MEMBERS, b'{"number":1,"status":"a"}', block="another")
    assert one != bare_id(MEMBERS, b'{"number":1,"status":"b"}')


@pytest.mark.parametrize("pipeline", [None, PARCELS])
def test_what_will_be_refused_has_an_id_that_stays(pipeline: Pipeline | None) -> None:
    assert bare_id(pipeline, b"no json", {"ce-id": "k"}) == bare_id(pipeline, b"no json", {"ce-id": "k"})
