"""A model's fields as columns."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from enum import IntEnum, StrEnum
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from pydantic import BaseModel, Field, create_model

from headrace.fields import fields_of


class Colour(StrEnum):
    RED = "red"


class Level(IntEnum):
    LOW = 1


class Offer(BaseModel):
    price: int
    by: str | None = None


@pytest.mark.parametrize(
    ("annotation", "sql_type"),
    [
        (bool, "boolean"),
        (int, "bigint"),
        (float, "double precision"),
        (Decimal, "numeric"),
        (datetime, "timestamptz"),
        (date, "date"),
        (UUID, "uuid"),
        (str, "text"),
        (str | None, "text"),
        (Annotated[int, Field(ge=0)], "bigint"),
        (Annotated[Decimal | None, Field(ge=0)], "numeric"),
        (int | str, "jsonb"),
        (list[int], "jsonb"),
        (dict[str, Any], "jsonb"),
        (Any, "jsonb"),
        (Literal["a", "b"], "text"),
        (Literal["a", 1], "jsonb"),
        (Literal[True, False], "jsonb"),
        (Colour, "text"),
        (Level, "jsonb"),
    ],
)
def test_a_type_has_its_column_type(annotation: Any, sql_type: str) -> None:
    model = create_model("M", value=(annotation, ...))

    assert [(f.path, f.column, f.sql_type) for f in fields_of(model)] == [("value", "value", sql_type)]


def test_nested_models_are_flattened_in_order() -> None:
    model = create_model("M", first=(str, ...), offer=(Offer | None, None), last=(int, ...))

    assert [(f.path, f.column, f.parts) for f in fields_of(model)] == [
        ("first", "first", ("first",)),
        ("offer.price", "offer_price", ("offer", "price")),
        ("offer.by", "offer_by", ("offer", "by")),
        ("last", "last", ("last",)),
    ]


def test_a_field_is_named_as_it_is_in_json() -> None:
    model = create_model(
        "M",
        a=(int, Field(alias="InvoiceNo")),
        b=(int, Field(serialization_alias="StockCode")),
        c=(int, Field(validation_alias="ignored")),
    )

    assert [(f.path, f.column) for f in fields_of(model)] == [
        ("InvoiceNo", "invoiceno"),
        ("StockCode", "stockcode"),
        ("c", "c"),
    ]


@pytest.mark.parametrize("name", ["id", "received_at", "sender", "block", "ordinal", "sha256", "key", "xmin", "ctid"])
def test_a_column_of_the_table_s_own_is_left_to_it(name: str) -> None:
    [field] = fields_of(create_model("M", **{name: (str, ...)}))  # type: ignore[call-overload]

    assert (field.path, field.column) == (name, f"{name}_")


def test_two_fields_of_one_column_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'offer.price' and 'offer_price' would both be column 'offer_price'"):
        fields_of(create_model("M", offer=(Offer, ...), offer_price=(int, ...)))


def test_fields_that_differ_in_case_only_are_refused() -> None:
    with pytest.raises(ValueError, match=r"would both be column 'name'"):
        fields_of(create_model("M", name=(str, ...), Name=(str, ...)))


def test_a_name_longer_than_postgres_takes_is_refused() -> None:
    assert len(fields_of(create_model("M", **{"x" * 63: (str, ...)}))) == 1  # type: ignore[call-overload]
    with pytest.raises(ValueError, match=r"more than 63 bytes"):
        fields_of(create_model("M", **{"x" * 64: (str, ...)}))  # type: ignore[call-overload]
