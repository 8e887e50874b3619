"""The invoices pipeline: which lines it takes, and what it makes of them."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from headrace.errors import DocumentError
from headrace.schema import validate
from pipelines.invoices import StoredInvoiceLine, invoices

LINE: dict[str, Any] = dict(invoices.example)


def stored(**changes: Any) -> StoredInvoiceLine:
    line = invoices.apply(validate(invoices, json.dumps(LINE | changes).encode()))
    assert isinstance(line, StoredInvoiceLine)
    return line


def broken_rules(document: dict[str, Any]) -> set[tuple[str, str]]:
    with pytest.raises(DocumentError) as refusal:
        validate(invoices, json.dumps(document).encode())
    return {(error.pointer, error.code) for error in refusal.value.errors}


def test_the_stored_form_has_every_field_and_its_amount() -> None:
    assert json.loads(stored().model_dump_json()) == {
        "invoice_no": "536365",
        "stock_code": "85123A",
        "description": "WHITE HANGING HEART T-LIGHT HOLDER",
        "quantity": 6,
        "invoice_date": "2010-12-01T08:26:00Z",
        "unit_price": "2.55",
        "customer_id": "17850",
        "country": "United Kingdom",
        "amount": "15.30",
        "cancelled": False,
    }


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("1/12/2010 08:26", "2010-12-01T08:26:00"),
        ("01/12/2010 8:26", "2010-12-01T08:26:00"),
        ("01-12-2010 08:26", "2010-12-01T08:26:00"),
        (" 31/1/2011 23:59 ", "2011-01-31T23:59:00"),
        ("29/2/2012 00:00", "2012-02-29T00:00:00"),
        ("2010-12-01T08:26:00", "2010-12-01T08:26:00"),
        ("2010-12-01 08:26", "2010-12-01T08:26:00"),
        ("2010-12-01T08:26:00Z", "2010-12-01T08:26:00"),
        ("2010-12-01T08:26:00+05:30", "2010-12-01T02:56:00"),
        ("2010-12-01T23:26:00.125-05:00", "2010-12-02T04:26:00.125000"),
    ],
)
def test_dates_are_day_first_or_iso_and_become_utc(text: str, moment: str) -> None:
    assert stored(InvoiceDate=text).invoice_date.isoformat() == f"{moment}+00:00"


@pytest.mark.parametrize(
    "date",
    [
        "12/13/2010 08:26",
        "12/31/2010 08:26",
        "29/2/2011 08:26",
        "31/4/2011 08:26",
        "1/12/10 08:26",
        "1/12-2010 08:26",
        "1.12.2010 08:26",
        "1/12/2010 24:00",
        "1/12/2010 08:60",
        "1/12/2010",
        "Dec 1 2010 08:26",
        "",
        "1291191960",
        "0001-01-01T00:00:00+14:00",
        "0001-01-01T00:00:00Z",
        "9999-12-31T23:59:59.999999Z",
        "١/12/2010 08:26",
        1291191960,
        12.5,
        True,
        ["1/12/2010 08:26"],
        None,
    ],
)
def test_a_date_that_is_neither_is_refused_and_never_guessed(date: Any) -> None:
    assert broken_rules(LINE | {"InvoiceDate": date}) == {("/InvoiceDate", "date_format")}


@pytest.mark.parametrize(
    ("price", "expected"),
    [
        (2.55, "2.55"),
        (3, "3"),
        (0, "0"),
        ("2.55", "2.55"),
        ("2,55", "2.55"),
        ("0,001", "0.001"),
        (0.1, "0.1"),
        ("1234567890,123456", "1234567890.123456"),
    ],
)
def test_prices_are_exact_with_decimal_point_or_comma(price: Any, expected: str) -> None:
    assert str(stored(UnitPrice=price).unit_price) == expected


@pytest.mark.parametrize(
    ("price", "rule"),
    [
        (-0.01, "greater_than_equal"),
        ("1.234,56", "decimal_parsing"),
        ("1,234,567", "decimal_parsing"),
        ("free", "decimal_parsing"),
        ("", "decimal_parsing"),
        ("NaN", "finite_number"),
        ("Infinity", "finite_number"),
        ("1e400", "decimal_max_digits"),
        ("0.0000001", "decimal_max_places"),
        (True, "decimal_type"),
        (None, "decimal_type"),
    ],
)
def test_a_price_that_is_none_is_refused(price: Any, rule: str) -> None:
    assert broken_rules(LINE | {"UnitPrice": price}) == {("/UnitPrice", rule)}


@pytest.mark.parametrize(
    ("quantity", "price", "amount"),
    [
        (6, "2,55", "15.30"),
        ("6", 2.55, "15.30"),
        (-12, "0,42", "-5.04"),
        (0, 1.25, "0.00"),
        (3, 0, "0"),
        (-(2**31), "9999999999.999999", "-21474836479999997852.516352"),
    ],
)
def test_the_amount_is_exact(quantity: Any, price: Any, amount: str) -> None:
    assert stored(Quantity=quantity, UnitPrice=price).amount == Decimal(amount)


@pytest.mark.parametrize(
    ("quantity", "rule"),
    [
        (1.5, "int_from_float"),
        ("six", "int_parsing"),
        ("", "int_parsing"),
        (2**31, "less_than"),
        ("-99999999999999999999", "greater_than_equal"),
        (True, "int_type"),
        (False, "int_type"),
        (None, "int_type"),
    ],
)
def test_a_quantity_that_is_no_whole_number_is_refused(quantity: Any, rule: str) -> None:
    assert broken_rules(LINE | {"Quantity": quantity}) == {("/Quantity", rule)}


@pytest.mark.parametrize("customer", ["17850", 17850, 17850.0, " 17850 "])
def test_a_customer_is_text_of_digits_however_it_is_given(customer: Any) -> None:
    assert stored(CustomerID=customer).customer_id == "17850"


@pytest.mark.parametrize("customer", ["C-1", "17850.5", 17850.5, "-1", -1, "١٢٣", "", "nan"])
def test_a_customer_that_is_not_digits_is_refused(customer: Any) -> None:
    assert {pointer for pointer, _ in broken_rules(LINE | {"CustomerID": customer})} == {"/CustomerID"}


@pytest.mark.parametrize("number", ["C536379", "c536379"])
def test_a_number_that_begins_with_c_is_a_cancellation(number: str) -> None:
    assert stored(InvoiceNo=number, Quantity=-1).cancelled


def test_a_return_without_c_is_no_cancellation() -> None:
    assert not stored(InvoiceNo=536589, Quantity=-10).cancelled


def test_white_space_around_texts_is_dropped() -> None:
    line = stored(Description="  WHITE METAL LANTERN ", StockCode=" 71053 ")

    assert (line.description, line.stock_code) == ("WHITE METAL LANTERN", "71053")


@pytest.mark.parametrize("field", LINE)
def test_no_field_may_be_null(field: str) -> None:
    assert {pointer for pointer, _ in broken_rules(LINE | {field: None})} == {f"/{field}"}


@pytest.mark.parametrize("field", LINE)
def test_no_field_may_be_left_out(field: str) -> None:
    assert broken_rules({name: value for name, value in LINE.items() if name != field}) == {(f"/{field}", "missing")}


@pytest.mark.parametrize("field", ["Description", "InvoiceNo", "StockCode", "Country"])
@pytest.mark.parametrize("blank", ["", "   "])
def test_a_blank_text_is_refused(field: str, blank: str) -> None:
    assert broken_rules(LINE | {field: blank}) == {(f"/{field}", "string_too_short")}


@pytest.mark.parametrize("field", ["Colour", "invoice_no", "invoiceno"])
def test_a_field_that_the_schema_does_not_have_is_refused(field: str) -> None:
    assert broken_rules(LINE | {field: "x"}) == {(f"/{field}", "extra_forbidden")}


def test_every_broken_field_of_a_line_is_named() -> None:
    document = LINE | {"CustomerID": None, "Description": None, "Quantity": "six"}

    assert {pointer for pointer, _ in broken_rules(document)} == {"/CustomerID", "/Description", "/Quantity"}


def test_the_schema_says_that_dates_may_be_day_first() -> None:
    date = invoices.accepts.model_json_schema()["properties"]["InvoiceDate"]

    assert date["type"] == "string"
    assert "format" not in date
    assert "1/12/2010 08:26" in date["examples"]
