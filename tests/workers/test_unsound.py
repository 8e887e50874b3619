"""Blocks that no gateway, refine or settler has made: none may wedge a stage, each is kept as one dead letter."""

from __future__ import annotations

import base64
import json
from typing import Any, cast

import msgspec
import pytest

from headrace.document import Block, DeadLetter, Envelope, check_dead_letter, check_envelope, new_id, now
from headrace.messaging.consumer import BlockConsumer, Delivery
from workers.books import _letters
from workers.unpack import unpack

ENVELOPE = {"id": new_id(), "time": now(), "subject": "a", "sha256": "ab" * 32, "ordinal": 0, "data": {"name": "a"}}
LETTER: dict[str, Any] = {
    "id": new_id(),
    "pipeline": "things",
    "stage": "refine",
    "code": "c",
    "reason": "r",
    "attempts": 1,
    "time": now(),
    "subject": "a",
    "block": new_id(),
    "ordinal": 0,
    "dead_at": now(),
    "body": base64.b64encode(b"{}").decode(),
    "errors": [{"pointer": "/a", "code": "c", "message": "m"}],
}
UNSOUND_TIMES = ["", "nope", "2026-01-01T00:00:00", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"]
UNSOUND_IDS = ["nope", f"{{{new_id()}}}", "urn:uuid:" + new_id(), new_id().upper(), new_id().replace("-", "")]


def delivery(body: bytes) -> Delivery:
    return Delivery(Block(new_id(), "things", body, 1), False, 1, now(), {}, "", cast(BlockConsumer, None))


@pytest.mark.parametrize(
    "changes",
    [
        *({"id": text} for text in UNSOUND_IDS),
        *({"time": text} for text in UNSOUND_TIMES),
        *({"sha256": text} for text in ("zz", "abc", "AB" * 32)),
        *({"ordinal": number} for number in (-1, 2**31)),
        {"subject": "a\x00"},
    ],
)
def test_an_envelope_that_a_store_would_choke_on_is_unsound(changes: dict[str, Any]) -> None:
    check_envelope(msgspec.convert(ENVELOPE | {"data": msgspec.Raw(b"{}")}, Envelope))
    body = json.dumps(ENVELOPE).encode() + b"\n" + json.dumps(ENVELOPE | changes).encode() + b"\n"

    [item] = unpack(None, delivery(body))

    assert bytes(item.envelope.data) == body
    check_envelope(item.envelope)


def test_a_block_nested_beyond_reason_is_one_document() -> None:
    body = json.dumps(ENVELOPE).encode().replace(b'{"name": "a"}', b"[" * 50_000 + b"]" * 50_000)

    [item] = unpack(None, delivery(body))

    assert bytes(item.envelope.data) == body


@pytest.mark.parametrize(
    "changes",
    [
        *({name: text} for name in ("id", "block") for text in UNSOUND_IDS),
        *({name: text} for name in ("time", "dead_at") for text in UNSOUND_TIMES),
        *({name: "a\x00"} for name in ("pipeline", "stage", "code", "reason", "subject")),
        *({"ordinal": number} for number in (-1, 2**31)),
        *({"attempts": number} for number in (-1, 2**31)),
        {"errors": [{}]},
        {"errors": [{"pointer": "\x00"}]},
        {"errors": [5]},
        {"body": "not base64!"},
    ],
)
def test_a_dead_letter_that_postgres_would_choke_on_is_kept_with_its_block(changes: dict[str, Any]) -> None:
    body = json.dumps(LETTER).encode() + b"\n" + json.dumps(LETTER | changes).encode() + b"\n"

    [letter] = _letters(delivery(body))

    assert (letter.stage, letter.code, letter.body) == ("dead", "malformed_block", body)
    check_dead_letter(letter)


def test_sound_dead_letters_are_taken_as_they_are() -> None:
    [letter] = _letters(delivery(json.dumps(LETTER).encode()))

    assert isinstance(letter, DeadLetter)
    assert (letter.id, letter.stage) == (LETTER["id"], "refine")
