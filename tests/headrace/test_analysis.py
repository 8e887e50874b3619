"""Rows of an analysis: the same records give the same table and digest, in whatever order and chunks they come."""

from __future__ import annotations

import random
from typing import Any

import pytest

from headrace import analysis
from headrace.analysis import AnalysisError, Rows

FIELDS = ("school", "G3", "part.size")
RECORDS: list[dict[str, Any]] = [
    {"_id": n, "school": f"s{n % 3}", "G3": n % 7, "part": {"size": n % 5}, "other": n} for n in range(50)
]


def gathered(records: list[dict[str, Any]], *, chunk: int = 7, fields: tuple[str, ...] = FIELDS) -> Rows:
    rows = Rows(fields)
    for start in range(0, len(records), chunk):
        rows.add(records[start : start + chunk])
    return rows


def test_order_chunks_ids_and_other_fields_make_no_difference() -> None:
    shuffled = [{**record, "_id": -record["_id"], "other": None} for record in RECORDS]
    random.Random(1).shuffle(shuffled)
    one, other = gathered(RECORDS), gathered(shuffled, chunk=13)

    assert one.digest() == other.digest()
    assert one.table() == other.table()


def test_the_table_has_every_row_of_every_field() -> None:
    table = gathered(RECORDS).table()

    assert list(table) == list(FIELDS)
    rows = sorted(zip(*table.values(), strict=True))
    assert rows == sorted((one["school"], one["G3"], one["part"]["size"]) for one in RECORDS)


@pytest.mark.parametrize(
    "records",
    [
        RECORDS[:-1],
        [*RECORDS, RECORDS[0]],
        [{**RECORDS[0], "G3": 8}, *RECORDS[1:]],
        [{**RECORDS[0], "G3": "0"}, *RECORDS[1:]],
    ],
    ids=["one less", "one twice", "one changed", "one of another type"],
)
def test_any_difference_in_the_records_is_one_in_the_digest(records: list[dict[str, Any]]) -> None:
    assert gathered(records).digest() != gathered(RECORDS).digest()


def test_the_fields_are_part_of_the_digest() -> None:
    same = [{"a": 1, "b": 1}]

    assert gathered(same, fields=("a",)).digest() != gathered(same, fields=("b",)).digest()


def test_what_a_record_has_not_is_none() -> None:
    table = gathered([{"school": "a"}, {"part": 5}]).table()

    assert {name: sorted(values, key=str) for name, values in table.items()} == {
        "school": [None, "a"],
        "G3": [None, None],
        "part.size": [None, None],
    }


def test_more_than_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(analysis, "MOST_ROWS", 20)

    with pytest.raises(AnalysisError, match="more than 20 documents"):
        gathered(RECORDS)
