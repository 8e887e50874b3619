"""What a body may hold: so many documents, and CloudEvents that say who they are."""

from __future__ import annotations

import json

import pytest

from gateway.body import documents, event_key
from gateway.headers import RequestHeaders, read_headers
from headrace.errors import RequestError

NDJSON = RequestHeaders(media_type=b"application/x-ndjson")
ARRAY = RequestHeaders(media_type=b"application/json")
EVENTS = RequestHeaders(media_type=b"application/cloudevents-batch+json")


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (NDJSON, b"{}\n{}\n{}"),
        (NDJSON, b"{}\n{}\n{}\n"),
        (NDJSON, b"\n\n\n\n"),
        (ARRAY, b"[{},1,[]]"),
        (EVENTS, b"[{},{},{}]"),
    ],
)
def test_more_documents_than_one_request_may_hold_are_refused_uncounted(headers: RequestHeaders, body: bytes) -> None:
    with pytest.raises(RequestError) as refused:
        documents(body, headers, 2)

    assert (refused.value.status, refused.value.code) == (413, "too_many")
    assert "2 documents" in refused.value.detail


@pytest.mark.parametrize(("headers", "body"), [(NDJSON, b"{}\n{}"), (NDJSON, b"{}\n{}\n"), (ARRAY, b"[{},{}]")])
def test_as_many_documents_as_one_request_may_hold_pass(headers: RequestHeaders, body: bytes) -> None:
    assert len(documents(body, headers, 2)[0]) == 2


def test_an_array_of_millions_of_values_is_refused_before_it_is_taken_apart() -> None:
    with pytest.raises(RequestError, match="2000000 values") as refused:
        documents(b"[" + b"1," * 2_000_001 + b"1]", ARRAY, 20_000)

    assert refused.value.status == 413


@pytest.mark.parametrize("missing", ["ce-id", "ce-source", "ce-type"])
@pytest.mark.parametrize("left", [None, b""])
def test_a_binary_event_that_does_not_say_who_it_is_is_refused(missing: str, left: bytes | None) -> None:
    given = {"ce-specversion": b"1.0", "ce-id": b"1", "ce-source": b"/a", "ce-type": b"t", missing: left}
    headers = read_headers([(name.encode(), value) for name, value in given.items() if value is not None])
    if missing == "ce-id" and left is None:
        assert headers.event_id == ""

    with pytest.raises(RequestError) as refused:
        documents(b"{}", headers, 1)

    assert refused.value.code == "invalid_cloudevent"


@pytest.mark.parametrize("empty", ["id", "source", "type"])
def test_a_structured_event_that_does_not_say_who_it_is_is_refused(empty: str) -> None:
    event = {"specversion": "1.0", "id": "1", "source": "/a", "type": "t", "data": {}, empty: ""}

    with pytest.raises(RequestError) as refused:
        documents(json.dumps(event).encode(), RequestHeaders(media_type=b"application/cloudevents+json"), 1)

    assert refused.value.code == "invalid_cloudevent"


def test_no_two_events_share_a_key() -> None:
    assert event_key("a\tb", "c") != event_key("a", "b\tc")
