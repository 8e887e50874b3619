"""The fields of a stored document, flattened: from them come the typed table, the BSON types and the query filters."""

from __future__ import annotations

import types
import typing
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal, get_args, get_origin
from uuid import UUID

from pydantic import BaseModel

# Python type -> Postgres type. bool stands before int, of which it is a subclass.
_SQL_TYPES: tuple[tuple[type, str], ...] = (
    (bool, "boolean"),
    (int, "bigint"),
    (float, "double precision"),
    (Decimal, "numeric"),
    (datetime, "timestamptz"),
    (date, "date"),
    (UUID, "uuid"),
    (str, "text"),
)

# Columns that every facts table has; a field of that name gets a trailing underscore.
RESERVED_COLUMNS = frozenset(
    {"id", "received_at", "sender", "block", "ordinal", "sha256", "key", "precedence"}
) | frozenset(
    # Postgres' own, in every table.
    {"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"}
)
_MAX_COLUMN_BYTES = 63


@dataclass(frozen=True)
class Field:
    """One leaf of the stored document.

    Attributes:
        path: dotted JSON names, `min_offer.price`.
        column: name in Postgres, `min_offer_price`.
        sql_type: type in Postgres; lists and free-form objects are `jsonb`.
    """

    path: str
    column: str
    sql_type: str

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self.path.split("."))


def fields_of(model: type[BaseModel]) -> tuple[Field, ...]:
    """Return the leaves of a model in the order of their declaration; nested models are flattened.

    Raises:
        ValueError: two leaves would have the same column, or one a longer name than Postgres takes.
    """
    fields = tuple(_walk(model, ()))
    columns: dict[str, str] = {}
    for field in fields:
        if other := columns.get(field.column):
            raise ValueError(f"{model.__name__}: {other!r} and {field.path!r} would both be column {field.column!r}")
        if len(field.column.encode()) > _MAX_COLUMN_BYTES:
            raise ValueError(
                f"{model.__name__}: column {field.column!r} has a name of more than {_MAX_COLUMN_BYTES} bytes; "
                "name the field shorter, or give it a serialization_alias"
            )
        columns[field.column] = field.path
    return fields


def _walk(model: type[BaseModel], prefix: tuple[str, ...]) -> typing.Iterator[Field]:
    for name, info in model.model_fields.items():
        parts = (*prefix, info.serialization_alias or info.alias or name)
        bare = _bare(info.annotation)
        if isinstance(bare, type) and issubclass(bare, BaseModel):
            yield from _walk(bare, parts)
        else:
            yield Field(".".join(parts), _column(parts), _sql_type(bare))


def _column(parts: tuple[str, ...]) -> str:
    column = "_".join(parts).lower()
    return f"{column}_" if column in RESERVED_COLUMNS else column


def _bare(annotation: Any) -> Any:
    """Return the annotation without `Annotated` and `| None`."""
    while True:
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        elif get_origin(annotation) in (typing.Union, types.UnionType):
            kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
            if len(kinds) != 1:
                return annotation
            annotation = kinds[0]
        else:
            return annotation


def _sql_type(bare: Any) -> str:
    if get_origin(bare) is Literal:
        kinds = {type(value) for value in get_args(bare)}
        return "text" if kinds == {str} else "jsonb"
    if isinstance(bare, type):
        if issubclass(bare, Enum):
            return "text" if issubclass(bare, str) else "jsonb"
        for kind, sql_type in _SQL_TYPES:
            if issubclass(bare, kind):
                return sql_type
    return "jsonb"
