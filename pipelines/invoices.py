"""Invoices: one line of an invoice as the Online Retail set writes it; exact amounts, revenue and products counted.

Dates are day first (`1/12/2010 08:26`) or ISO 8601; month first is never guessed. No field may be null.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from headrace.pipeline import Count, Pipeline, Sum, Trend

_DAY_FIRST = re.compile(r"([0-9]{1,2})([/-])([0-9]{1,2})\2([0-9]{4}) ([0-9]{1,2}):([0-9]{2})")


# One invoice has many lines of the same minute, so most dates have just been read.
@lru_cache(maxsize=4096)
def read_date(text: str) -> datetime:
    """Return the time that the text names, in UTC; a time without a zone is UTC already.

    Raises:
        ValueError: it is neither day/month/year hour:minute nor ISO 8601, there is no such day, or its UTC year is
            1 or 9999.
        OverflowError: its UTC day lies outside the years 1 to 9999.
    """
    if match := _DAY_FIRST.fullmatch(text):
        day, _, month, year, hour, minute = match.groups()
        moment = datetime(int(year), int(month), int(day), int(hour), int(minute), tzinfo=UTC)
    else:
        moment = datetime.fromisoformat(text)
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    # The first and the last moment of Python's calendar are infinities to Postgres' client.
    if not 1 < moment.year < 9999:
        raise ValueError(f"no invoice is of the year {moment.year}")
    return moment


def _date(value: object) -> datetime:
    # pydantic's own reader takes numbers, and text of digits, as seconds since 1970.
    if isinstance(value, str):
        try:
            return read_date(value.strip())
        except (ValueError, OverflowError):
            pass
    raise PydanticCustomError(
        "date_format", "Input should be an existing day as day/month/year hour:minute (1/12/2010 08:26) or in ISO 8601"
    )


def _whole_number(value: Any) -> Any:
    if value is True or value is False:
        raise PydanticCustomError("int_type", "Input should be a valid integer")
    return value


def _decimal_point(value: Any) -> Any:
    return value.replace(",", ".") if isinstance(value, str) else value


InvoiceDate = Annotated[
    datetime,
    BeforeValidator(_date),
    WithJsonSchema(
        {
            "type": "string",
            "description": "day/month/year hour:minute, or ISO 8601; UTC where no zone is given",
            "examples": ["1/12/2010 08:26", "2010-12-01T08:26:00Z"],
        },
        mode="validation",
    ),
]


class InvoiceLine(BaseModel):
    """One product on one invoice; a cancellation has `C` before its number, a return a negative quantity."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", coerce_numbers_to_str=True, str_strip_whitespace=True, str_min_length=1
    )

    invoice_no: str = Field(alias="InvoiceNo", max_length=32)
    stock_code: str = Field(alias="StockCode", max_length=32)
    description: str = Field(alias="Description", max_length=256)
    quantity: Annotated[int, BeforeValidator(_whole_number)] = Field(alias="Quantity", ge=-(2**31), lt=2**31)
    invoice_date: InvoiceDate = Field(alias="InvoiceDate")
    # 16 digits times the 10 of a quantity fit Python's 28 and Decimal128's 34, so that no amount is ever rounded.
    unit_price: Annotated[Decimal, BeforeValidator(_decimal_point)] = Field(
        alias="UnitPrice", ge=0, max_digits=16, decimal_places=6, description="in text, a decimal comma is a point"
    )
    customer_id: str = Field(alias="CustomerID", pattern="^[0-9]{1,16}$")
    country: str = Field(alias="Country", max_length=64)


class StoredInvoiceLine(BaseModel):
    """An invoice line with its amount, quantity times unit price, exact."""

    model_config = ConfigDict(frozen=True)

    invoice_no: str
    stock_code: str
    description: str
    quantity: int
    invoice_date: datetime
    unit_price: Decimal
    customer_id: str
    country: str
    amount: Decimal
    cancelled: bool


def transform(line: InvoiceLine) -> StoredInvoiceLine:
    """Return the stored form: the line plus `amount` and `cancelled`."""
    return StoredInvoiceLine(
        **line.__dict__, amount=line.quantity * line.unit_price, cancelled=line.invoice_no[0] in "Cc"
    )


invoices = Pipeline(
    name="invoices",
    description="Invoice lines of an online shop",
    accepts=InvoiceLine,
    yields=StoredInvoiceLine,
    transform=transform,
    metrics=[
        Sum("revenue_by_country", of="amount", by="country"),
        Sum("revenue_by_product", of="amount", by="stock_code"),
        Trend("revenue_by_day", every="1d", of="amount", at="invoice_date"),
        Sum("top_products", of="quantity", by="stock_code"),
        Count("lines_by_country", by="country"),
        Trend("per_minute", every="1m"),
    ],
    example={
        "InvoiceNo": "536365",
        "StockCode": "85123A",
        "Description": "WHITE HANGING HEART T-LIGHT HOLDER",
        "Quantity": 6,
        "InvoiceDate": "1/12/2010 08:26",
        "UnitPrice": 2.55,
        "CustomerID": "17850",
        "Country": "United Kingdom",
    },
)
