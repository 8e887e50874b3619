"""Values to replies: JSON with exact decimals, strong ETags, and 304 for those who have the answer already."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from headrace.messaging.mesh import Reply

SOURCE_HEADER: Final = "Headrace-Source"

_encode = msgspec.json.Encoder(decimal_format="number").encode


@dataclass(frozen=True, slots=True)
class Answer:
    """An encoded answer that may be given many times."""

    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


def encoded(value: Any) -> bytes:
    """Return JSON; a Decimal is a number with all its digits, a datetime RFC 3339."""
    return _encode(value)


def tagged(value: Any, *, source: str) -> Answer:
    """Return an answer with its ETag and the store that it came from."""
    body = encoded(value)
    return Answer(body, {"ETag": f'"{hashlib.sha256(body).hexdigest()[:32]}"', SOURCE_HEADER: source})


def conditional(answer: Answer, headers: Mapping[str, str]) -> Reply:
    """Return the answer, or 304 where `If-None-Match` names it (RFC 9110, 13.1.2: weak comparison)."""
    asked = [tag.strip().removeprefix("W/") for tag in headers.get("If-None-Match", "").split(",")]
    if "*" in asked or answer.headers["ETag"] in asked:
        return Reply(b"", 304, answer.headers)
    return Reply(answer.body, 200, answer.headers)
