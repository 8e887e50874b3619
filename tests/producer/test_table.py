"""Database tables: every row once in order of its key, types as JSON has them, and what cannot be read said."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from headrace.settings import Settings
from producer.formats import Row, SourceError
from producer.mapping import columns_of
from producer.origins.table import table_source
from producer.origins.values import NoJsonError, json_value
from producer.source import Place

ID = "018f0000-0000-7000-8000-00000000000"


async def read(database: str, table: str, after: Place | None = None, **more: Any) -> list[Row]:
    return [row async for row in table_source(database, table, batch_rows=3, **more).rows(after)]


@pytest.fixture
def sqlite(tmp_path: Path) -> Callable[..., str]:
    path = tmp_path / "things.db"

    def run(*statements: str) -> str:
        with sqlite3.connect(path) as connection:
            for statement in statements:
                connection.execute(statement)
        return f"sqlite:///{path}"

    return run


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 4, 6, 7])
async def test_every_row_is_read_once_in_order_of_its_key(sqlite: Callable[..., str], rows: int) -> None:
    url = sqlite("CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT)")
    sqlite(*(f"INSERT INTO t VALUES ({n * 10}, 'n{n}')" for n in reversed(range(rows))))

    found = await read(url, "t")

    assert found == [Row(n + 1, {"id": n * 10, "name": f"n{n}"}, key=f"[{n * 10}]") for n in range(rows)]


async def test_a_key_of_several_columns_keeps_its_order_over_batches(sqlite: Callable[..., str]) -> None:
    url = sqlite("CREATE TABLE t (a TEXT, b INTEGER, PRIMARY KEY (a, b))")
    pairs = [(a, b) for a in ("x", "y", "z") for b in range(4)]
    sqlite(*(f"INSERT INTO t VALUES ('{a}', {b})" for a, b in reversed(pairs)))

    found = await read(url, "t")

    assert [(row.document["a"], row.document["b"]) for row in found if row.document] == pairs


async def test_a_later_run_goes_on_after_the_last_key(sqlite: Callable[..., str]) -> None:
    url = sqlite("CREATE TABLE t (id INTEGER PRIMARY KEY)", *(f"INSERT INTO t VALUES ({n})" for n in range(1, 9)))
    first = await read(url, "t")
    sqlite("INSERT INTO t VALUES (100)")

    found = await read(url, "t", Place(first[4].number, first[4].key or ""))

    assert [(row.number, row.document) for row in found] == [
        (6, {"id": 6}),
        (7, {"id": 7}),
        (8, {"id": 8}),
        (9, {"id": 100}),
    ]


async def test_columns_are_mapped_and_what_is_dropped_is_not_even_read(sqlite: Callable[..., str]) -> None:
    url = sqlite(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT, photo BLOB)", "INSERT INTO t VALUES (1, NULL, x'ff')"
    )

    all_columns = await read(url, "t")
    without = await read(url, "t", columns=columns_of(["name=title"], ["*"]))

    assert [(error["pointer"], error["code"]) for error in all_columns[0].errors] == [("/photo", "no_json_form")]
    # NULL is left out, as an empty field of a file.
    assert without == [Row(1, {}, key="[1]")]


@pytest.mark.parametrize(
    ("create", "options", "why"),
    [
        ("CREATE TABLE u (id INTEGER PRIMARY KEY)", {}, "There is no table 't'; there are: u"),
        ("CREATE TABLE t (id INTEGER)", {}, "no primary key; give --key-column"),
        ("CREATE TABLE t (id INTEGER)", {"key_columns": ["nr"]}, "no column 'nr'; it has 'id'"),
        ("CREATE TABLE t (id INTEGER PRIMARY KEY)", {"columns": columns_of(["b=c"])}, "no column 'b'; it has 'id'"),
    ],
)  # fmt: skip
async def test_a_table_that_cannot_be_read_says_why(
    sqlite: Callable[..., str], create: str, options: dict[str, Any], why: str
) -> None:
    with pytest.raises(SourceError, match=why):
        await read(sqlite(create), "t", **options)


@pytest.mark.parametrize("repeated", [1, 3, 4])
async def test_a_key_that_repeats_ends_the_run_rather_than_leave_a_row_out(
    sqlite: Callable[..., str], repeated: int
) -> None:
    url = sqlite("CREATE TABLE t (nr INTEGER, name TEXT)")
    sqlite(*(f"INSERT INTO t VALUES ({n}, 'a')" for n in (1, 2, 3, 4, 5, repeated)))

    with pytest.raises(SourceError, match="two rows have the same 'nr'"):
        await read(url, "t", key_columns=["nr"])


async def test_rows_without_a_key_are_not_passed_over(sqlite: Callable[..., str]) -> None:
    url = sqlite("CREATE TABLE t (nr INTEGER)", "INSERT INTO t VALUES (1)", "INSERT INTO t VALUES (NULL)")

    with pytest.raises(SourceError, match="1 rows have no 'nr'"):
        await read(url, "t", key_columns=["nr"])


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("nonsense", "not a URL of SQLAlchemy"),
        ("nonsense://host/x", "not a URL of SQLAlchemy"),
        ("sqlite:///none.db", "there is no file none.db"),
        ("sqlite://", "there is no file :memory:"),
        ("oracle://me:s3cret@host/x", "needs the driver oracledb"),
    ],
)
def test_a_database_that_cannot_be_opened_is_said(url: str, why: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(SourceError, match=why) as refused:
        table_source(url, "t")

    assert "s3cret" not in str(refused.value)
    assert not Path("none.db").exists()


async def test_a_file_that_is_no_database_is_said(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    path.write_text("not a database, whatever its name says, and long enough to be looked at\n" * 20)

    with pytest.raises(SourceError, match="not a database"):
        await read(f"sqlite:///{path}", "t")


async def test_a_database_that_is_away_is_said_without_its_password(monkeypatch: Any) -> None:
    monkeypatch.setattr("producer.origins.table._MOST_ATTEMPTS", 1)

    with pytest.raises(SourceError) as refused:
        await read("postgresql://me:s3cret@127.0.0.1:1/x", "t")

    assert "127.0.0.1:1" in str(refused.value)
    assert "s3cret" not in str(refused.value)


async def test_the_types_of_postgres_become_json_exactly_or_are_refused_by_field(settings: Settings) -> None:
    url = settings.postgres_url.get_secret_value()
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(
            """
            CREATE SCHEMA shop;
            CREATE TABLE shop.sales (
                id uuid PRIMARY KEY, price numeric, at timestamptz, local timestamp, on_day date, weight float8,
                big bigint, ok boolean, tags text[], more jsonb, photo bytea, span int4range
            );
            """
        )
        for number, weight in enumerate((0.1, 2.5, float("nan"), 4.0)):
            await connection.execute(
                "INSERT INTO shop.sales VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
                UUID(f"{ID}{number}"),
                Decimal("12345678901234567890.10"),
                datetime(2026, 1, 31, 12, 0, 0, 5, tzinfo=UTC),
                datetime(2026, 1, 31, 12, 0),  # noqa: DTZ001
                date(2026, 1, 31),
                weight,
                2**62,
                True,
                ["a", "b"],
                '{"x": [1, null]}',
                b"\xff" if number == 1 else None,
                asyncpg.Range(1, 5) if number == 3 else None,
            )
    finally:
        await connection.close()

    found = await read(url, "shop.sales")
    rest = await read(url, "shop.sales", Place(2, found[1].key or ""))

    assert found[0].document == {
        "id": f"{ID}0",
        "price": "12345678901234567890.10",
        "at": "2026-01-31T12:00:00.000005+00:00",
        "local": "2026-01-31T12:00:00",
        "on_day": "2026-01-31",
        "weight": 0.1,
        "big": 2**62,
        "ok": True,
        "tags": ["a", "b"],
        "more": {"x": [1, None]},
    }
    assert [[error["pointer"] for error in row.errors] for row in found] == [[], ["/photo"], ["/weight"], ["/span"]]
    assert rest == found[2:]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Decimal("1E+3"), "1000"),
        (Decimal("2.50"), "2.50"),
        (timedelta(hours=25), "P1DT3600S"),
        ({"a": (1, Decimal("0.1"))}, {"a": [1, "0.1"]}),
        (None, None),
    ],
)
def test_values_have_one_form_in_json(value: Any, expected: Any) -> None:
    assert json_value(value) == expected


@pytest.mark.parametrize("value", [b"x", memoryview(b"x"), float("inf"), Decimal("NaN"), object(), [b"x"], 1j])
def test_values_without_a_form_in_json_are_refused(value: Any) -> None:
    with pytest.raises(NoJsonError):
        json_value(value)
