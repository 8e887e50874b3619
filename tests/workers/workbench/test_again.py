"""A dead letter to the line it goes back as."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

import pytest

from headrace.document import check_envelope, envelopes
from headrace.errors import RequestError
from headrace.patch import patch_of
from headrace.registry import load_pipelines
from workers.workbench.again import Rules, again

ID = "019aae5e-9d07-7b10-8f0e-1d3b9c2a4f02"
BLOCK = "019aae5e-7c1b-7d23-9c3f-6a52f4a6a001"
RULES = Rules(load_pipelines(None), max_replays=3, force=False, by_filter=True)
MOVE = patch_of([{"op": "move", "from": "/a", "path": "/b"}])


def letter(**changes: Any) -> dict[str, Any]:
    return {
        "seq": 7,
        "document_id": uuid.UUID(ID),
        "block": uuid.UUID(BLOCK),
        "ordinal": 2,
        "stage": "refine",
        "pipeline": "invoices",
        "code": "invalid_document",
        "sender": 'a "sender"',
        "received_at": datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC),
        "body": b'{"a":1.00}',
        "sha256": "",
        "replays": 0,
        **changes,
    }


@pytest.mark.parametrize("body", [b'{"a":1.00}', b' {"a":1.00}\r\n', b'{"a":\n1.00}', b"[]", b"7", '"ü"'.encode()])
def test_what_refine_refused_goes_back_with_its_id_time_and_sender(body: bytes) -> None:
    found = again(letter(body=body), None, RULES)

    assert found.stream == "RAW"
    assert found.line.count(b"\n") == 1
    [envelope] = envelopes(found.line)
    check_envelope(envelope)
    assert (envelope.id, envelope.time, envelope.subject) == (ID, "2026-01-02T03:04:05.000678Z", 'a "sender"')
    assert (envelope.sha256, envelope.ordinal, envelope.replays, envelope.sink, envelope.block) == ("", 0, 1, "", "")
    assert bytes(envelope.data) == body.strip().replace(b"\n", b" ")


def test_a_patch_changes_what_goes_back() -> None:
    assert bytes(again(letter(), MOVE, RULES).envelope.data) == b'{"b":1.00}'


def test_what_a_sink_refused_goes_back_to_it_alone_as_of_its_block() -> None:
    found = again(letter(stage="facts", code="store_refused", sha256="ab" * 32, replays=1), None, RULES)

    assert found.stream == "CLEAN"
    [envelope] = envelopes(found.line)
    check_envelope(envelope)
    assert (envelope.sha256, envelope.ordinal, envelope.replays) == ("ab" * 32, 2, 2)
    assert (envelope.sink, envelope.block) == ("facts", BLOCK)


@pytest.mark.parametrize(
    ("changes", "patched", "code"),
    [
        ({"stage": "dead"}, False, "not_replayable"),
        ({"stage": "journal"}, False, "not_replayable"),
        ({"stage": "made up"}, False, "not_replayable"),
        ({"pipeline": "nothing"}, False, "unknown_pipeline"),
        ({"code": "idempotency_conflict"}, False, "idempotency_conflict"),
        ({"replays": 3}, False, "replayed_too_often"),
        ({"stage": "facts", "sha256": "ab"}, True, "patch_failed"),
        ({"stage": "facts"}, False, "not_replayable"),
        ({"body": b'{"x":1}'}, True, "patch_failed"),
        ({"body": b'{"a":"' + b"x" * 614_400 + b'"}'}, False, "too_large"),
        # Nothing of a document may become part of its envelope, or of another's.
        ({"body": b'{"a":1},"sha256":"ab"'}, False, "malformed_json"),
        ({"body": b'{"a":1}}\n{"id":"x"'}, False, "malformed_json"),
        ({"body": b'1,"sink":"facts"'}, False, "malformed_json"),
        ({"body": b""}, False, "malformed_json"),
        ({"body": b"{"}, False, "malformed_json"),
        ({"body": b"\xff\xfe"}, False, "malformed_json"),
        ({"body": b"\xff\xfe"}, True, "malformed_json"),
    ],
)
def test_what_cannot_go_back_says_why(changes: dict[str, Any], patched: bool, code: str) -> None:
    with pytest.raises(RequestError) as refused:
        again(letter(**changes), MOVE if patched else None, RULES)

    assert refused.value.code == code


@pytest.mark.parametrize("changes", [{"code": "idempotency_conflict"}, {"replays": 9}])
def test_force_takes_what_would_only_come_back(changes: dict[str, Any]) -> None:
    rules = Rules(RULES.pipelines, max_replays=3, force=True, by_filter=True)

    assert again(letter(**changes), None, rules)


def test_who_is_named_may_be_replayed_as_often_as_somebody_wants() -> None:
    rules = Rules(RULES.pipelines, max_replays=3, force=False, by_filter=False)

    assert again(letter(replays=9), None, rules).envelope.replays == 10
