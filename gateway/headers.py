"""The request headers that the hot route reads, in one pass. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from headrace.errors import FieldError, RequestError

MAX_KEY_LENGTH: Final = 255
MAX_WAIT_SECONDS: Final = 30.0

_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*([0-9]{1,6}(?:\.[0-9]{1,3})?)\s*(?:$|[,;\s])")
_KEY = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")


@dataclass(slots=True)
class RequestHeaders:
    """What the headers say.

    Attributes:
        media_type: of the body, lower case, without parameters; None where it is not said.
        length: of the body in bytes; None where it is not said.
        key: the Idempotency-Key.
        wait_seconds: how long the client wants to wait for the stored state; 0 where it does not.
        event_id, event_source, event_type, event_version: of a binary CloudEvent.
    """

    authorization: bytes | None = None
    media_type: bytes | None = None
    encoding: bytes | None = None
    length: int | None = None
    request_id: bytes | None = None
    key: str | None = None
    wait_seconds: float = 0.0
    event_id: str | None = None
    event_source: str | None = None
    event_type: str | None = None
    event_version: str | None = None

    @property
    def plain(self) -> bool:
        """Return whether nothing is asked for but to take a JSON body as it is."""
        return (
            (self.media_type is None or self.media_type == b"application/json")
            and self.encoding is None
            and self.event_id is None
            and not self.wait_seconds
        )


def read_headers(raw: Iterable[tuple[bytes, bytes]] | Mapping[bytes, bytes]) -> RequestHeaders:
    """Return what the headers say.

    Raises:
        RequestError: an Idempotency-Key, Prefer or Content-Length that cannot be meant.
    """
    # Of a header that is repeated the last counts. A dict and look-ups cost half of comparing every name.
    given = dict(raw)
    found = RequestHeaders(
        authorization=given.get(b"authorization"),
        request_id=given.get(b"x-request-id"),
    )
    if (kind := given.get(b"content-type")) is not None:
        found.media_type = kind.partition(b";")[0].strip().lower()
    if (length := given.get(b"content-length")) is not None and length.isdigit():
        found.length = int(length)
    if (encoding := given.get(b"content-encoding")) is not None:
        found.encoding = encoding.strip().lower()
    if (key := given.get(b"idempotency-key")) is not None:
        found.key = _key(key)
    if (prefer := given.get(b"prefer")) is not None:
        found.wait_seconds = _wait(prefer)
    if b"ce-specversion" in given or b"ce-id" in given:
        found.event_id = _text(given, b"ce-id") or ""
        found.event_source = _text(given, b"ce-source")
        found.event_type = _text(given, b"ce-type")
        found.event_version = _text(given, b"ce-specversion")
    return found


def _text(given: Mapping[bytes, bytes], name: bytes) -> str | None:
    value = given.get(name)
    return None if value is None else value.decode("latin-1")


def _key(value: bytes) -> str:
    text = value.decode("latin-1")
    if len(text) > MAX_KEY_LENGTH or not _KEY.fullmatch(text):
        raise RequestError(
            "The Idempotency-Key cannot be used.",
            code="invalid_header",
            errors=[
                FieldError("", "idempotency_key", f"Idempotency-Key: 1 to {MAX_KEY_LENGTH} printable ASCII characters.")
            ],
        )
    return text


def _wait(value: bytes) -> float:
    """Return the seconds of `Prefer: wait=N` (RFC 7240, section 4.3); other preferences are not ours."""
    match = _WAIT.search(value.decode("latin-1").lower())
    return min(float(match[1]), MAX_WAIT_SECONDS) if match else 0.0
