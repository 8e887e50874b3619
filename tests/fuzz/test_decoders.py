"""Random and half-good bytes at everything that reads them: only errors of our own tree come out, or values."""

from __future__ import annotations

import base64
import contextlib
import json
import string
from datetime import UTC, datetime
from typing import Any, Final, cast

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from analytics.cursor import cursor_of, place_of
from analytics.listing import Place, field_named, parsed
from analytics.requests import AskDeadList, AskDocuments, AskMetricKey, decoded
from auth.requests import Login, NewKey, Registration, parse, principal_of
from auth.tokens import Keyring, new_signing_key
from gateway.authenticate import _token
from gateway.body import EVENT, EVENTS, JSON, NDJSON, documents, event_key
from gateway.headers import RequestHeaders, read_headers
from gateway.problems import request_id_of
from headrace.document import Block, check_dead_letter, check_envelope, dead_letters, envelopes
from headrace.errors import AccessError, HeadraceError, RequestError
from headrace.messaging.consumer import BlockConsumer, Delivery
from headrace.messaging.mesh import Request
from headrace.registry import load_pipelines
from headrace.schema import check_json, validate
from headrace.tokens import PRINCIPAL_HEADER, TokenVerifier, is_api_key
from tests.fuzz.settings import bounded
from workers.unpack import unpack

PIPELINES: Final = load_pipelines()
VERIFIER: Final = TokenVerifier(Keyring((new_signing_key(datetime.fromtimestamp(0, UTC)),)).jwks())
KID: Final = next(iter(VERIFIER.key_ids))
MEDIA_TYPES: Final = (None, JSON, EVENT, EVENTS, *sorted(NDJSON), b"application/x+json", b"text/plain")

HEADER_NAMES: Final = tuple(
    f"{name}".encode()
    for name in (
        *("content-type", "content-length", "content-encoding", "idempotency-key", "prefer", "x-request-id"),
        *("authorization", "ce-id", "ce-source", "ce-type", "ce-specversion"),
    )
)

# Every text, lone surrogates included: JSON can spell them.
TEXTS: Final = st.text(st.characters(), max_size=40)
NUMBERS: Final = st.one_of(
    st.integers(), st.integers(-(2**70), 2**70), st.floats(), st.sampled_from([2**63, -(2**63) - 1, 1e308])
)
VALUES: Final = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=12,
)


def spelled(value: Any) -> bytes:
    """Return JSON as Python spells it: NaN, Infinity and lone surrogates included."""
    return json.dumps(value).encode()


JUNK: Final = st.one_of(
    st.binary(max_size=200), VALUES.map(spelled), TEXTS.map(lambda text: text.encode(errors="surrogatepass"))
)


@st.composite
def near(draw: st.DrawFn, good: bytes) -> bytes:
    """Draw bytes that begin as good ones: cut, changed, repeated, or with a part replaced."""
    start = draw(st.integers(0, len(good)))
    end = draw(st.integers(start, len(good)))
    return good[:start] + draw(JUNK) + good[end:]


BLOCK: Final = "019aae5e-7c1b-7d23-9c3f-6a52f4a6a001"
ENVELOPE: Final = spelled(
    {"id": "019aae5e-7c1b-7d23-9c3f-6a52f4a6a001", "time": "2026-01-01T00:00:00Z", "subject": "ada", "data": {"a": 1}}
)
DEAD: Final = spelled(
    {
        "id": "019aae5e-7c1b-7d23-9c3f-6a52f4a6a001",
        "pipeline": "invoices",
        "stage": "refine",
        "code": "invalid_document",
        "reason": "…",
        "attempts": 1,
        "time": "2026-01-01T00:00:00Z",
        "subject": "ada",
        "block": "019aae5e-7c1b-7d23-9c3f-6a52f4a6a001",
        "ordinal": 0,
        "dead_at": "2026-01-01T00:00:00Z",
        "body": "e30=",
        "errors": [{"pointer": "/a", "code": "missing", "message": "…"}],
    }
)
CLOUD: Final = spelled({"specversion": "1.0", "id": "1", "source": "/a", "type": "t", "data": {"a": 1}})


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@st.composite
def tokens(draw: st.DrawFn) -> str:
    """Draw what looks like a token: a JWS of any header and claims, or a text."""
    if draw(st.booleans()):
        return draw(st.text(max_size=300))
    header = draw(
        st.one_of(st.fixed_dictionaries({"alg": VALUES, "kid": st.just(KID)}, optional={"crit": VALUES}), VALUES)
    )
    parts = [spelled(header), draw(st.one_of(VALUES.map(spelled), st.binary(max_size=200)))]
    return ".".join([*map(b64, parts), b64(draw(st.binary(min_size=64, max_size=64)))])


@given(tokens())
@settings(**bounded(300))
@example(f"{b64(b'[' * 2900)}.e30.{b64(bytes(64))}")
@example(f"{b64(json.dumps({'alg': 'ES256', 'kid': KID}).encode())}.{b64(b'[' * 2800)}.{b64(bytes(64))}")
def test_whatever_a_token_is_it_is_refused_and_nothing_else(token: str) -> None:
    with contextlib.suppress(AccessError):
        raise AssertionError(VERIFIER.verify(token))
    is_api_key(token)


@given(st.one_of(st.binary(max_size=100), st.binary(max_size=100).map(lambda rest: b"Bearer " + rest)))
@settings(**bounded(200))
def test_an_authorization_header_gives_a_text_or_401(header: bytes) -> None:
    with contextlib.suppress(AccessError):
        assert isinstance(_token(header), str)


@given(st.lists(st.tuples(st.sampled_from(HEADER_NAMES), st.binary(max_size=60)), max_size=8))
@settings(**bounded(300))
def test_headers_are_read_or_refused(given_headers: list[tuple[bytes, bytes]]) -> None:
    with contextlib.suppress(RequestError):
        found = read_headers(given_headers)
        assert 0 <= found.wait_seconds <= 30
        assert found.key is None or found.key.isascii()
        assert "\n" not in request_id_of(found.request_id)


@given(
    st.one_of(JUNK, near(CLOUD), near(b"[%b,%b]" % (CLOUD, CLOUD)), near(ENVELOPE + b"\n" + ENVELOPE)),
    st.sampled_from(MEDIA_TYPES),
    st.one_of(st.none(), TEXTS),
    st.one_of(st.none(), TEXTS),
)
@settings(**bounded(400))
def test_a_body_of_any_media_type_is_documents_or_a_refusal(
    body: bytes, media_type: bytes | None, event_id: str | None, source: str | None
) -> None:
    headers = RequestHeaders(
        media_type=media_type, event_id=event_id, event_source=source, event_type="t", event_version="1.0"
    )
    with contextlib.suppress(RequestError):
        found, bulk = documents(body, headers, 100)
        assert found
        assert bulk or len(found) == 1


@given(st.text(max_size=20), st.text(max_size=20), st.text(max_size=20), st.text(max_size=20))
@settings(**bounded(200))
def test_no_two_events_have_one_key(source: str, event_id: str, other_source: str, other_id: str) -> None:
    same = event_key(source, event_id) == event_key(other_source, other_id)

    assert same == ((source, event_id) == (other_source, other_id))


@given(st.one_of(JUNK, *(near(spelled(dict(pipeline.example))) for pipeline in PIPELINES.values())))
@settings(**bounded(400))
@example(b"[" * 100_000)
@example(b'{"a":' * 100_000)
@example(b'"' + b"\\" * 100_001)
@example(b'{"a":' + b"9" * 10_000 + b"}")
@example(b'{"a":1e' + b"9" * 10_000 + b"}")
def test_a_document_of_every_pipeline_is_taken_or_refused(data: bytes) -> None:
    for pipeline in PIPELINES.values():
        with contextlib.suppress(RequestError):
            document = validate(pipeline, data)
            # What is taken at the door is what refine makes something of.
            pipeline.apply(document)
    with contextlib.suppress(RequestError):
        check_json(data)


@given(st.one_of(JUNK, near(ENVELOPE), near(ENVELOPE + b"\n" + ENVELOPE)))
@settings(**bounded(400))
@example(b"[" * 100_000)
def test_a_block_of_any_bytes_is_unpacked(body: bytes) -> None:
    with contextlib.suppress(msgspec.DecodeError, ValueError, RecursionError):
        for envelope in envelopes(body):
            check_envelope(envelope)
    for bare in (False, True):
        for name in ("invoices", "licenses"):
            assert unpack(PIPELINES[name], delivery(name, body, bare=bare))


@given(st.one_of(JUNK, near(DEAD)))
@settings(**bounded(300))
def test_a_dead_letter_of_any_bytes_is_read_or_refused(body: bytes) -> None:
    with contextlib.suppress(msgspec.DecodeError, ValueError, RecursionError):
        for letter in dead_letters(body):
            check_dead_letter(letter)


@given(
    st.one_of(TEXTS, near(cursor_of(Place("-received_at", "a", "b", "c")).encode()).map(lambda b: b.decode("latin-1")))
)
@settings(**bounded(300))
def test_a_cursor_is_ours_or_refused(cursor: str) -> None:
    with contextlib.suppress(RequestError):
        assert cursor_of(place_of(cursor, Place)) == cursor


@given(
    st.sampled_from(sorted(PIPELINES)),
    st.integers(0, 50),
    st.one_of(
        TEXTS,
        st.text(string.digits + "+-.eE_:TZ ", max_size=40),
        st.sampled_from(("NaN", "Infinity", "٣", "1_0", "0" * 5000)),
    ),
)
@settings(**bounded(400))
@example("invoices", 5, "1e999999999")
@example("invoices", 4, "9" * 5000)
def test_a_filter_s_value_is_of_its_type_or_refused(name: str, index: int, text: str) -> None:
    pipeline = PIPELINES[name]
    field = pipeline.fields[index % len(pipeline.fields)]
    with contextlib.suppress(RequestError):
        # No text becomes an operator: what MongoDB would take for one is a mapping.
        assert not isinstance(parsed(field, text), dict | list)
    with contextlib.suppress(RequestError):
        assert field_named(pipeline, text).path == text


@given(JUNK)
@settings(**bounded(200))
def test_what_services_are_asked_is_read_or_refused(payload: bytes) -> None:
    for kind in (AskDocuments, AskDeadList, AskMetricKey):
        with contextlib.suppress(HeadraceError):
            decoded(payload, kind)
    for model in (Registration, Login, NewKey):
        with contextlib.suppress(HeadraceError):
            parse(model, payload)
    with contextlib.suppress(HeadraceError):
        principal_of(Request(b"", {PRINCIPAL_HEADER: payload.decode("latin-1")}))


def delivery(pipeline: str, body: bytes, *, bare: bool) -> Delivery:
    """Return a delivery that nobody has to settle."""
    return Delivery(Block(BLOCK, pipeline, body, 1), bare, 1, "2026-01-01T00:00:00Z", {}, "", cast(BlockConsumer, None))
