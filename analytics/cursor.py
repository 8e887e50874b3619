"""Cursors: where a page ended, opaque to clients and checked when they come back. Pure."""

from __future__ import annotations

import base64
import binascii
from typing import TypeVar

import msgspec

from headrace.errors import DocumentError, FieldError

Place = TypeVar("Place", bound=msgspec.Struct)


def cursor_of(place: msgspec.Struct) -> str:
    """Return a place as text that is safe in a URL."""
    return base64.urlsafe_b64encode(msgspec.json.encode(place)).decode().rstrip("=")


def place_of(cursor: str, kind: type[Place]) -> Place:
    """Return the place that a cursor of ours names.

    Raises:
        DocumentError: we never made this cursor (422 `invalid_cursor`).
    """
    try:
        body = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        place = msgspec.json.decode(body, type=kind)
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        raise invalid_cursor() from None
    if cursor_of(place) != cursor:
        raise invalid_cursor()
    return place


def invalid_cursor() -> DocumentError:
    return DocumentError(
        "The cursor does not belong to this list.",
        code="invalid_cursor",
        errors=[
            FieldError("/cursor", "invalid_cursor", "Use `next` of the page before with the same filters and sort.")
        ],
    )
