"""A request's body within its limits, and the documents in it: one, many, or CloudEvents. The parsing is pure."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from gateway.headers import RequestHeaders
from headrace.acceptance import too_large
from headrace.errors import DocumentError, FieldError, RequestError
from headrace.schema import malformed

Receive = Callable[[], Awaitable[Any]]

JSON: Final = b"application/json"
NDJSON: Final = frozenset({b"application/x-ndjson", b"application/jsonl", b"application/ndjson"})
EVENT: Final = b"application/cloudevents+json"
EVENTS: Final = b"application/cloudevents-batch+json"
# More values than this in one array cost too much memory only to be counted.
_MAX_COMMAS: Final = 2_000_000


class ClientGoneError(Exception):
    """The client hung up before its body had come."""


@dataclass(slots=True)
class Incoming:
    """One document as it came.

    Attributes:
        key: what the client calls it, or None.
        error: why it is refused already.
    """

    data: bytes
    key: str | None = None
    error: RequestError | None = None


class _Event(msgspec.Struct):
    """The attributes of a structured CloudEvent that matter here (CloudEvents 1.0.2, section 3.1)."""

    specversion: str
    id: str
    source: str
    type: str
    data: msgspec.Raw = msgspec.Raw(b"")
    data_base64: str | None = None
    datacontenttype: str = "application/json"


_raws = msgspec.json.Decoder(list[msgspec.Raw]).decode
_event = msgspec.json.Decoder(_Event).decode


async def read_body(receive: Receive, headers: RequestHeaders, limit_bytes: int) -> bytes:
    """Return the whole body.

    Raises:
        RequestError: 413 as soon as it is known to be too large, 415 when it is compressed.
        ClientGoneError: the client hung up.
    """
    if headers.encoding not in (None, b"identity"):
        raise RequestError("The body is compressed; send it as it is.", code="unsupported_encoding", status=415)
    if headers.length is not None and headers.length > limit_bytes:
        raise too_large(limit_bytes, "body")
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientGoneError
    body: bytes = message.get("body", b"")
    if not message.get("more_body", False):
        if len(body) > limit_bytes:
            raise too_large(limit_bytes, "body")
        return body
    chunks = [body]
    size = len(body)
    while message.get("more_body", False):
        if size > limit_bytes:
            raise too_large(limit_bytes, "body")
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        chunk = message.get("body", b"")
        size += len(chunk)
        chunks.append(chunk)
    if size > limit_bytes:
        raise too_large(limit_bytes, "body")
    return b"".join(chunks)


def too_many(max_documents: int) -> RequestError:
    return RequestError(
        f"The body holds more than {max_documents} documents. Send less at once.", code="too_many", status=413
    )


def documents(body: bytes, headers: RequestHeaders, max_documents: int) -> tuple[list[Incoming], bool]:
    """Return the documents of a body, and whether it was a bulk.

    Raises:
        RequestError: the media type is none of ours, the body as a whole cannot be read, or holds too many.
        DocumentError: a CloudEvent breaks its rules.
    """
    kind = headers.media_type
    if kind is None or kind == JSON or (kind.endswith(b"+json") and kind not in (EVENT, EVENTS)):
        if headers.event_id is not None:
            return [_binary_event(body, headers)], False
        if body.lstrip(b" \t\r\n")[:1] == b"[":
            return _keyed(_array(body, max_documents), headers.key), True
        return [Incoming(body, headers.key)], False
    if kind in NDJSON:
        # Empty lines count, too: a body may be nothing else.
        if body.count(b"\n", 0, -1) >= max_documents:
            raise too_many(max_documents)
        lines = [line for line in body.split(b"\n") if line and not line.isspace()]
        if not lines:
            raise malformed("it has no line")
        return _keyed(lines, headers.key), True
    if kind == EVENT:
        return [_structured_event(body)], False
    if kind == EVENTS:
        return [_item_event(item) for item in _array(body, max_documents)], True
    raise RequestError(
        f"The media type {kind[:80].decode('latin-1')!r} is not taken; send application/json, application/x-ndjson or "
        "CloudEvents. With curl: -H 'Content-Type: application/json'.",
        code="unsupported_media_type",
        status=415,
    )


def _keyed(items: list[bytes], key: str | None) -> list[Incoming]:
    if key is None:
        return [Incoming(item) for item in items]
    return [Incoming(item, f"{key}/{number}") for number, item in enumerate(items)]


def _array(body: bytes, max_documents: int) -> list[bytes]:
    if body.count(b",") > _MAX_COMMAS:
        raise RequestError(
            f"The array holds more than {_MAX_COMMAS} values. Send less at once.", code="too_many", status=413
        )
    try:
        items = _raws(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise malformed(str(error)) from None
    if not items:
        raise DocumentError("The array is empty.", errors=[FieldError("", "too_short", "Send at least one document.")])
    if len(items) > max_documents:
        raise too_many(max_documents)
    return [bytes(item) for item in items]


def _binary_event(body: bytes, headers: RequestHeaders) -> Incoming:
    """Attributes in headers, the document as body."""
    if headers.event_version != "1.0" or not (headers.event_id and headers.event_source and headers.event_type):
        raise _no_event("Send the headers ce-specversion: 1.0, ce-id, ce-source and ce-type, none of them empty.")
    return Incoming(body, event_key(headers.event_source, headers.event_id))


def _structured_event(body: bytes) -> Incoming:
    try:
        event = _event(body)
    except msgspec.ValidationError as error:
        raise _no_event(f"{error}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise malformed(str(error)) from None
    if event.specversion != "1.0" or not (event.id and event.source and event.type):
        raise _no_event("specversion is 1.0; id, source and type are not empty.")
    data = bytes(event.data)
    if not data or event.data_base64 is not None:
        raise _no_event("The document stands in `data`, as JSON.")
    return Incoming(data, event_key(event.source, event.id))


def _item_event(body: bytes) -> Incoming:
    try:
        return _structured_event(body)
    except RequestError as error:
        return Incoming(body, error=error)


def event_key(source: str, event_id: str) -> str:
    """Return the key of an event: source and id together are unique (CloudEvents 1.0.2, section 3.1.1)."""
    # With its length, since either may hold a tab.
    return f"ce\t{len(source)}\t{source}\t{event_id}"


def _no_event(advice: str) -> DocumentError:
    return DocumentError(
        "The CloudEvent breaks the rules of CloudEvents 1.0.",
        code="invalid_cloudevent",
        errors=[FieldError("", "invalid_cloudevent", advice)],
    )
