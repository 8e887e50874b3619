"""Pages of documents: filters by declared fields, a sort, a cursor; no text of a client becomes an operator."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from decimal import Context, Decimal, Inexact, InvalidOperation
from typing import Any, Final
from uuid import UUID

import msgspec

from analytics.cursor import cursor_of, invalid_cursor, place_of
from analytics.deadline import within
from analytics.requests import AskDocuments, AskRows
from headrace.document import parse_id, parse_time, rfc3339
from headrace.errors import DocumentError, FieldError
from headrace.fields import Field
from headrace.pipeline import Pipeline
from headrace.schema import INT64
from headrace.storage.mongo import Documents, StoredDocument, entity_key

RECEIVED_AT: Final = Field("received_at", "received_at", "timestamptz")
# What Decimal128 holds exactly.
_DECIMAL128: Final = Context(prec=34, Emin=-6143, Emax=6144, traps=[Inexact, InvalidOperation])
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,19}")


class Place(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Where a page ended: the order and filters it belongs to, and the last document's sort value and id."""

    sort: str
    filters: str
    value: str | None
    id: str


async def page(documents: Documents, pipeline: Pipeline, asked: AskDocuments, store_seconds: float) -> dict[str, Any]:
    """Return {items, next}.

    Raises:
        DocumentError: a field is unknown, a value is not of its type, or the cursor is not ours.
        UnavailableError: MongoDB is away or too slow.
    """
    sort = asked.sort or "-received_at"
    descending = sort.startswith("-")
    by = _sortable(pipeline, sort.removeprefix("-"))
    filters = {name: parsed(field_named(pipeline, name), text) for name, text in asked.filters.items()}
    digest = hashlib.sha256(msgspec.json.encode(sorted(asked.filters.items()))).hexdigest()[:16]
    after = None
    if asked.cursor is not None:
        after = _after(pipeline, by, place_of(asked.cursor, Place), sort, digest)
    found = await within(
        store_seconds,
        "mongo",
        documents.find(pipeline, filters, sort=by.path, descending=descending, after=after, limit=asked.limit + 1),
    )
    shown = found[: asked.limit]
    more = len(found) > len(shown)
    return {
        "items": [
            {"id": str(one.id), "received_at": rfc3339(one.received_at), "document": one.document} for one in shown
        ],
        "next": cursor_of(_place(pipeline, by, shown[-1], sort, digest)) if more else None,
    }


async def rows(documents: Documents, pipeline: Pipeline, asked: AskRows, store_seconds: float) -> list[dict[str, Any]]:
    """Return documents as a pipeline's own listing shows them: `_id` as text, then the fields asked for, or all.

    Raises:
        DocumentError: a field is unknown, or a value is not of its type.
        UnavailableError: MongoDB is away or too slow.
    """
    by = _sortable(pipeline, asked.sort.removeprefix("-"))
    found = await within(
        store_seconds,
        "mongo",
        documents.find(
            pipeline,
            {name: parsed(field_named(pipeline, name), text) for name, text in asked.filters.items()},
            sort=by.path,
            descending=asked.sort.startswith("-"),
            limit=asked.limit,
            present=[field_named(pipeline, name).path for name in asked.present],
            skip=asked.skip,
        ),
    )
    picked = [field_named(pipeline, name) for name in asked.fields]
    return [
        {
            "_id": _identity(pipeline, one),
            **({field.path: _at(one.document, field) for field in picked} if picked else one.document),
        }
        for one in found
    ]


def field_named(pipeline: Pipeline, name: str) -> Field:
    """Return a declared field, or when a document was received.

    Raises:
        DocumentError: there is none of that name (422 `unknown_field`).
    """
    found = next((field for field in pipeline.fields if field.path == name), None)
    if found is not None:
        return found
    if name == RECEIVED_AT.path:
        return RECEIVED_AT
    known = ", ".join([RECEIVED_AT.path, *(field.path for field in pipeline.fields)])
    raise DocumentError(
        f"Pipeline {pipeline.name!r} has no field {name[:80]!r}; it has: {known}.",
        code="unknown_field",
        errors=[FieldError(f"/{name[:80]}", "unknown_field", "Filter and sort by declared fields only.")],
    )


def parsed(field: Field, text: str) -> Any:
    """Return a value of a field's type, as MongoDB holds it; a list matches where one of its texts does.

    Raises:
        DocumentError: the text is no such value (422 `invalid_value`).
    """
    try:
        return _PARSERS[field.sql_type](text)
    except (ValueError, ArithmeticError):
        raise DocumentError(
            f"{field.path} is of type {_NAMES[field.sql_type]}, which the value given is not.",
            code="invalid_value",
            errors=[FieldError(f"/{field.path}", "invalid_value", f"Give a value of type {_NAMES[field.sql_type]}.")],
        ) from None


def _sortable(pipeline: Pipeline, name: str) -> Field:
    field = field_named(pipeline, name)
    if field.sql_type == "jsonb":
        raise DocumentError(
            f"{name} is a list or an object, which has no order.",
            code="invalid_value",
            errors=[FieldError("/sort", "invalid_value", "Sort by a field that holds one value.")],
        )
    return field


def _place(pipeline: Pipeline, by: Field, last: StoredDocument, sort: str, digest: str) -> Place:
    value = last.received_at if by is RECEIVED_AT else _at(last.document, by)
    return Place(sort, digest, None if value is None else _text(value), _identity(pipeline, last))


def _identity(pipeline: Pipeline, one: StoredDocument) -> str:
    """Return the `_id` of a document as MongoDB has it, as text; of an entity it is the key."""
    return entity_key(pipeline, one.document) if pipeline.entity else str(one.id)


def _at(document: Mapping[str, Any], field: Field) -> Any:
    value: Any = document
    for part in field.parts:
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _after(pipeline: Pipeline, by: Field, place: Place, sort: str, digest: str) -> tuple[Any, Any]:
    if (place.sort, place.filters) != (sort, digest):
        raise invalid_cursor()
    try:
        value = None if place.value is None else parsed(by, place.value)
        return value, place.id if pipeline.entity else parse_id(place.id)
    except (DocumentError, ValueError):
        raise invalid_cursor() from None


def _text(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case datetime():
            return value.isoformat()
    return str(value)


def _boolean(text: str) -> bool:
    return {"true": True, "false": False}[text] if text in ("true", "false") else _refuse()


def _integer(text: str) -> int:
    # int() also takes spaces, underscores and the digits of every script.
    value = int(text) if _INTEGER.fullmatch(text) else _refuse()
    return value if value in INT64 else _refuse()


def _number(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse()


def _decimal(text: str) -> Decimal:
    value = Decimal(text)
    return _DECIMAL128.create_decimal(value) if value.is_finite() else _refuse()


def _time(text: str) -> datetime:
    # A plus sign that a URL does not escape arrives as a space.
    time = parse_time(text.replace(" ", "+") if text.count(" ") == 1 and "T" in text else text)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _word(text: str) -> str:
    return _refuse() if "\x00" in text else text


def _refuse() -> Any:
    raise ValueError


_PARSERS: Final[Mapping[str, Callable[[str], Any]]] = {
    "boolean": _boolean,
    "bigint": _integer,
    "double precision": _number,
    "numeric": _decimal,
    "timestamptz": _time,
    # These are text in MongoDB, in their standard form.
    "date": lambda text: date.fromisoformat(text).isoformat(),
    "uuid": lambda text: str(UUID(text)),
    "text": _word,
    "jsonb": _word,
}
_NAMES: Final[Mapping[str, str]] = {
    "boolean": "true or false",
    "bigint": "64-bit integer",
    "double precision": "number",
    "numeric": "decimal",
    "timestamptz": "RFC 3339 time",
    "date": "date",
    "uuid": "UUID",
    "text": "text",
    "jsonb": "text",
}
