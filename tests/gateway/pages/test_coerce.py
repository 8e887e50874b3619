"""Typed text to JSON values: one table, with what a schema refuses left as it was typed."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gateway.pages.coerce import ABSENT, coerce
from gateway.pages.nodes import Choice, Input, Kind

YES_NO = (Choice("true", "Yes", True), Choice("false", "No", False))
BREAKFAST = (*YES_NO, Choice('"true"', "true", "true"))
SCALE = tuple(Choice(str(number), str(number), number) for number in range(3))


@pytest.mark.parametrize(
    ("kind", "typed", "value"),
    [
        ("text", "mill", "mill"),
        ("text", " kept as typed ", " kept as typed "),
        ("text", "0012", "0012"),
        ("text", "null", "null"),
        ("long_text", "one\r\ntwo", "one\ntwo"),
        ("integer", "6", 6),
        ("integer", " +6 ", 6),
        ("integer", "-0012", -12),
        ("integer", "99999999999999999999", 99999999999999999999),
        ("integer", "6.5", "6.5"),
        ("integer", "six", "six"),
        ("integer", "1_000", "1_000"),
        ("integer", "٣", "٣"),
        ("integer", "9" * 5000, "9" * 5000),
        ("number", "6", 6),
        ("number", "6.50", 6.5),
        ("number", ".5", 0.5),
        ("number", "-1e3", -1000.0),
        ("number", "1e999", "1e999"),
        ("number", "NaN", "NaN"),
        ("number", "Infinity", "Infinity"),
        ("number", "2,5", "2,5"),
        ("decimal", "12345678901234567890.12", "12345678901234567890.12"),
        ("decimal", " 2,55 ", "2,55"),
        ("date", "2026-11-25", "2026-11-25"),
        ("moment", "2026-11-25T08:15", "2026-11-25T08:15Z"),
        ("moment", "2026-11-25T08:15:30.5", "2026-11-25T08:15:30.5Z"),
        ("moment", "2026-11-25T08:15:30+01:00", "2026-11-25T08:15:30+01:00"),
        ("moment", "tomorrow", "tomorrow"),
        ("email", " ada@example.org ", "ada@example.org"),
        ("lines", "one\r\n\r\ntwo\n", ["one", "two"]),
        ("json", '{"a": [1.50]}', msgspec.Raw(b'{"a": [1.50]}')),
    ],
)
def test_a_text_becomes_the_value_that_it_means(kind: Kind, typed: str, value: Any) -> None:
    found, wrong = coerce(Input("x", "X", kind), [typed])

    assert (found, type(found), wrong) == (value, type(value), None)


@pytest.mark.parametrize(
    ("choices", "typed", "value"),
    [
        (YES_NO, "true", True),
        (YES_NO, "false", False),
        (YES_NO, "maybe", "maybe"),
        (BREAKFAST, "true", True),
        (BREAKFAST, '"true"', "true"),
        (SCALE, "2", 2),
        (SCALE, "7", "7"),
    ],
)
def test_a_choice_is_the_value_behind_it(choices: tuple[Choice, ...], typed: str, value: Any) -> None:
    found, _ = coerce(Input("x", "X", "choice", choices=choices), [typed])

    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("kind", ["text", "integer", "decimal", "choice", "lines", "json", "date"])
@pytest.mark.parametrize("typed", [[], [""], ["  \r\n "]])
def test_nothing_typed_is_no_value(kind: Kind, typed: list[str]) -> None:
    def value(**more: Any) -> Any:
        return coerce(Input("x", "X", kind, **more), typed)[0]

    assert value(required=True) is ABSENT
    assert value(nullable=True) is ABSENT
    assert value(required=True, nullable=True) is None
    # Who clears a default means nothing, not the default again.
    assert value(nullable=True, default=("6",)) is None


def test_ticks_are_a_list() -> None:
    ticks = Input("x", "X", "choices", choices=SCALE, required=True)

    assert coerce(ticks, ["1", "2"])[0] == [1, 2]
    assert coerce(ticks, [])[0] == []
    assert coerce(Input("x", "X", "choices", choices=SCALE), [])[0] is ABSENT


def test_lines_of_numbers_are_numbers() -> None:
    assert coerce(Input("x", "X", "lines", item="integer"), ["1\n two\n3"])[0] == [1, "two", 3]


@pytest.mark.parametrize("typed", ["{", "[1,]", "{} {}", "NaN", "'a'", "[" * 100_000])
def test_what_is_no_json_is_an_error_at_its_own_field(typed: str) -> None:
    value, wrong = coerce(Input("x", "X", "json", required=True), [typed])

    assert value is ABSENT
    assert wrong is not None
    assert wrong.code == "malformed_json"
    assert len(wrong.message) < 200
