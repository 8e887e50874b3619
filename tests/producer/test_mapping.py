"""Columns to fields: what the command line may say, and what becomes of a row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from producer.formats import Row, SourceError
from producer.mapping import columns_of


def mapped(document: dict[str, Any], *maps: str, drop: tuple[str, ...] = (), dates: tuple[str, ...] = ()) -> Row:
    return columns_of(maps, drop, dates).apply(Row(7, document))


@pytest.mark.parametrize(
    ("maps", "drop", "dates", "document", "expected"),
    [
        (("Name=name",), (), (), {"Name": "a", "x": "1"}, {"name": "a", "x": "1"}),
        (("a=b", "b=a"), (), (), {"a": "1", "b": "2"}, {"b": "1", "a": "2"}),
        (("A=p.a", "B=p.b"), (), (), {"A": 1, "B": 2}, {"p": {"a": 1, "b": 2}}),
        (("a=b=c",), (), (), {"a=b": "1"}, {"c": "1"}),
        ((), ("x",), (), {"x": "1", "y": "2"}, {"y": "2"}),
        (("a=b",), ("*",), (), {"a": "1", "x": "2", "y": "3"}, {"b": "1"}),
        ((), (), ("on=%m/%d/%Y",), {"on": "12/31/2019"}, {"on": "2019-12-31"}),
        ((), (), ("at=%d.%m.%Y %H:%M",), {"at": " 01.02.2019 08:26 "}, {"at": "2019-02-01T08:26:00"}),
        (("W=t.at",), (), ("t.at=%Y %H%z",), {"W": "2019 08+0100"}, {"t": {"at": "2019-01-01T08:00:00+01:00"}}),
        ((), (), ("on=%d %% %m %Y",), {"on": "1 % 2 2019"}, {"on": "2019-02-01"}),
        ((), (), ("on=%m/%d/%Y",), {"y": "1"}, {"y": "1"}),
        ((), (), ("on=%m/%d/%Y",), {"on": None}, {"on": None}),
        ((), (), (), {"a": "1"}, {"a": "1"}),
    ],
)  # fmt: skip
def test_columns_become_fields(
    maps: tuple[str, ...],
    drop: tuple[str, ...],
    dates: tuple[str, ...],
    document: dict[str, Any],
    expected: dict[str, Any],
) -> None:
    row = mapped(document, *maps, drop=drop, dates=dates)

    assert row == Row(7, expected)


@pytest.mark.parametrize("value", ["31/12/2019", "soon", 20191231, ["12/31/2019"]])
def test_a_date_of_another_form_is_refused_by_its_field(value: Any) -> None:
    row = mapped({"on": value}, dates=("on=%m/%d/%Y",))

    assert [(error["pointer"], error["code"]) for error in row.errors] == [("/on", "date_format")]


@pytest.mark.parametrize(
    ("document", "maps"),
    [({"a": "1", "b": "2"}, "a=b"), ({"p": "1", "a": "2"}, "a=p.x"), ({"x": "1", "b.c": "2"}, "x=b.c")],
)
def test_two_columns_for_one_field_are_refused_and_none_of_them_wins(document: dict[str, Any], maps: str) -> None:
    row = mapped(document, maps)

    if "b.c" in document:
        # A dot in a column's own name leads nowhere.
        assert row.document == {"b": {"c": "1"}, "b.c": "2"}
    else:
        assert [error["code"] for error in row.errors] == ["ambiguous_field"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"maps": ["name"]}, "write COLUMN=FIELD"),
        ({"maps": ["=name"]}, "write COLUMN=FIELD"),
        ({"maps": ["a=b..c"]}, "no name of a field"),
        ({"maps": ["a=c", "b=c"]}, "two columns go to the field 'c'"),
        ({"maps": ["a=c"], "dropped": ["a"]}, "both name the column 'a'"),
        ({"formats": ["on"]}, "write FIELD=FORMAT"),
        ({"formats": ["on=yesterday"]}, "not a form of dates"),
        ({"formats": ["on=%Q"]}, "not a form of dates"),
    ],
)
def test_what_cannot_be_meant_is_said(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        columns_of(**arguments)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("m.json", '{"map": {"A": "a"}, "date_format": {"on": "%m/%d/%Y"}, "drop": ["x"]}'),
        ("m.toml", 'drop = ["x"]\n[map]\nA = "a"\n[date_format]\non = "%m/%d/%Y"\n'),
    ],
)
def test_a_mapping_may_stand_in_a_file_and_the_command_line_comes_before_it(
    tmp_path: Path, name: str, text: str
) -> None:
    path = tmp_path / name
    path.write_text(text)

    row = columns_of(["A=b"], file=path).apply(Row(1, {"A": "1", "on": "12/31/2019", "x": "0"}))

    assert row.document == {"b": "1", "on": "2019-12-31"}


@pytest.mark.parametrize("text", ["{", '{"maps": {}}', '{"map": {"a": 1}}', "\xff"])
def test_a_mapping_that_cannot_be_read_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "m.json"
    path.write_bytes(text.encode("latin-1"))

    with pytest.raises(ValueError, match=r"m\.json: "):
        columns_of(file=path)


def test_a_column_that_is_not_there_is_named_with_those_that_are() -> None:
    columns = columns_of(["Nmae=name"], ["Name", "*"])

    with pytest.raises(SourceError, match=r"x\.csv has no column 'Nmae'; it has 'Name', 'Age'"):
        columns.check(["Name", "Age"], "x.csv")


def test_the_same_mapping_has_the_same_name_however_it_is_written() -> None:
    one = columns_of(["a=b", "c=d"], ["x", "y"], ["t=%Y"])
    other = columns_of(["c=d", "a=b"], ["y", "x"], ["t=%Y"])

    assert one.name == other.name
    assert one.name != columns_of(["a=b"], ["x", "y"], ["t=%Y"]).name
