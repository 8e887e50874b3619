"""What a browser sent to a document, and errors back to their fields."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from pydantic import BaseModel, Field

from gateway.pages.filled import Filled, Given, broken, fill, first, mark, with_rows, without_row
from gateway.pages.schema import form_of
from headrace.errors import FieldError


class Line(BaseModel):
    stock: str = Field(min_length=1)
    amount: int = 1


class Address(BaseModel):
    street: str
    city: str = ""


class Order(BaseModel):
    number: str
    lines: list[Line] = Field(min_length=1)
    address: Address | None = None
    tags: list[str] = []
    notes: dict[str, str] | None = None


FORM = form_of(Order.model_json_schema())


def document(given: Given) -> Any:
    return msgspec.json.decode(msgspec.json.encode(fill(FORM, given).value))


def part(form: Filled, pointer: str) -> Filled:
    return next(one for one in form.walk() if one.pointer == pointer)


def test_names_are_pointers_into_the_document() -> None:
    given = {
        "csrf": ["x"],
        "key": ["y"],
        "/number": ["7"],
        "/lines/0/stock": ["A"],
        "/lines/0/amount": ["3"],
        "/address/street": ["Mill Lane"],
        "/tags": ["a\r\nb"],
        "/notes": ['{"k": "v"}'],
        "/unknown": ["left out"],
    }

    assert document(given) == {
        "number": "7",
        "lines": [{"stock": "A", "amount": 3}],
        "address": {"street": "Mill Lane"},
        "tags": ["a", "b"],
        "notes": {"k": "v"},
    }


def test_what_is_left_empty_is_left_out() -> None:
    given = {"/number": [""], "/address/street": [" "], "/notes": [""]}

    assert document(given) == {"lines": []}


def test_empty_rows_are_closed_up_and_rows_keep_their_order() -> None:
    given = {f"/lines/{place}/stock": [text] for place, text in ((12, "C"), (0, "A"), (3, ""), (5, "B"))}
    form = fill(FORM, given)

    assert [row.pointer for row in part(form, "/lines").children] == ["/lines/0", "/lines/1", "/lines/2"]
    assert [line["stock"] for line in document(given)["lines"]] == ["A", "B", "C"]
    assert part(form, "/lines/1/stock").text == "B"


def test_a_row_that_nobody_touched_is_empty_even_where_it_has_defaults() -> None:
    rows = {"/lines/0/stock": ["A"], "/lines/0/amount": ["1"], "/lines/1/stock": [""], "/lines/1/amount": ["1"]}

    assert len(document(rows)["lines"]) == 1
    assert len(document({**rows, "/lines/1/amount": ["2"]})["lines"]) == 2


def test_a_browser_cannot_ask_for_rows_without_end() -> None:
    given = {f"/lines/{place}/stock": ["A"] for place in range(900)}
    huge = {"/lines/999999999/stock": ["A"], f"/lines/{'9' * 50}/stock": ["B"]}

    assert len(document(given)["lines"]) == 200
    assert document(huge)["lines"] == [{"stock": "A"}]


def test_a_form_begins_with_its_defaults_and_the_rows_that_it_needs() -> None:
    form = first(FORM)

    assert [row.pointer for row in part(form, "/lines").children] == ["/lines/0"]
    assert part(form, "/lines/0/amount").text == "1"
    assert part(form, "/lines/0/stock").must
    # A browser that insisted on them would not let the whole be left out.
    assert not part(form, "/address/street").must


def test_rows_are_added_and_removed() -> None:
    given = {"/lines/0/stock": ["A"], "/lines/1/stock": ["B"], "/lines/10/stock": ["C"]}
    more = with_rows(fill(FORM, given), "/lines")
    assert len(part(more, "/lines").children) == 4

    fewer = fill(FORM, without_row(given, "/lines/1"))
    assert [part(fewer, f"/lines/{row}/stock").text for row in (0, 1)] == ["A", "C"]


@pytest.mark.parametrize(
    ("pointer", "at", "message"),
    [
        ("/number", "/number", "Number: bad"),
        ("/lines/0/stock", "/lines/0/stock", "Lines, row 1, stock: bad"),
        ("/lines", "/lines", "Lines: bad"),
        ("/lines/9/stock", "/lines", "Lines: 9/stock: bad"),
        ("/address/street", "/address/street", "Address, street: bad"),
        ("/tags/1", "/tags", "Tags: line 2: bad"),
        ("/notes/a~1b", "/notes", "Notes: a~1b: bad"),
        ("", None, "bad"),
        ("/extra", None, "extra: bad"),
    ],
)
def test_an_error_stands_beside_its_field(pointer: str, at: str | None, message: str) -> None:
    form = first(FORM)
    (told,) = mark(form, [FieldError(pointer, "some_rule", "bad")])

    beside = [one.pointer for one in form.walk() if one.errors]
    assert beside == ([] if at is None else [at])
    assert told == ("" if at is None else part(form, at).element_id, message)


def test_ids_of_fields_are_ids_and_differ() -> None:
    names = ["a/b", "a_b", "a~b", "a b", "ä", '"><script>', "a"]
    text = {"type": "string"}
    nested = {"type": "object", "properties": {"b": text}}
    form = first(form_of({"type": "object", "properties": {**dict.fromkeys(names, text), "a": nested}}))
    ids = [one.element_id for one in form.walk()]

    assert len(set(ids)) == len(names) + 2
    assert all(one.replace("-", "").replace("_", "").isalnum() and one.isascii() for one in ids)


def test_json_that_is_none_is_told_at_its_row() -> None:
    form = fill(FORM, {"/notes": ["{"]})

    assert [error.pointer for error in broken(form)] == ["/notes"]
    assert part(form, "/notes").text == "{"
