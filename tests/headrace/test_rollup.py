"""Counting in parts gives what counting at once gives, however the documents are split and ordered."""

from __future__ import annotations

import functools
import random
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal, Inexact
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from headrace.document import rfc3339
from headrace.pipeline import Count, Latest, Maximum, Metric, Minimum, Pipeline, Sum, Trend
from headrace.rollup import NO_BUCKET, Aggregator, Row, RowKey


class Offer(BaseModel):
    price: int | None = None


class Thing(BaseModel):
    name: str | None = None
    fast: bool | None = None
    size: int = 0
    weight: float | None = None
    cost: Decimal | None = None
    at: datetime | None = None
    seconds: float | None = None
    tags: list[Any] = []
    offer: Offer | None = None


METRICS: list[Metric] = [
    Count("total"),
    Count("names", by="name"),
    Count("pairs", by=("name", "fast")),
    Count("tags", by=("tags[]", "size")),
    Count("weights", by="weight"),
    Sum("weight", of="weight", by="name"),
    Sum("cost", of="cost"),
    Minimum("least", of="offer.price", by="name"),
    Maximum("greatest", of="cost", by="tags[]"),
    Latest("latest", at="at", of=("name", "size"), by="fast"),
    Latest("whole", at="seconds"),
    Trend("per_minute", every="1m"),
    Trend("per_hour", every="1h", of="cost", at="at", by="name"),
]
THINGS = Pipeline(name="things", accepts=Thing, example={}, metrics=METRICS)

EXACT = Context(prec=5000, traps=[Inexact])
START = datetime(2026, 1, 1, tzinfo=UTC)
NAMES = st.none() | st.sampled_from(["a", "b", "", '"', "é", "1"])
MOMENTS = st.integers(-7200, 7200).map(lambda seconds: START + timedelta(seconds=seconds))
DOCUMENTS = st.fixed_dictionaries(
    {
        "name": NAMES,
        "fast": st.none() | st.booleans(),
        "size": st.integers(-2, 2),
        "weight": st.none() | st.floats(allow_nan=False, allow_infinity=False),
        "cost": st.none() | st.decimals(allow_nan=False, allow_infinity=False, places=6).map(str),
        "at": st.none() | MOMENTS.map(rfc3339),
        "seconds": st.none() | st.floats(0, 4e9),
        "tags": st.lists(st.sampled_from(["x", "y", 1, True, 1.0, 0.0, -0.0, None, [1], {"a": 1}]), max_size=3),
        "offer": st.none() | st.fixed_dictionaries({"price": st.none() | st.integers(-5, 5)}),
    }
)
RECEIVED = st.lists(st.tuples(DOCUMENTS, MOMENTS), max_size=12)


def merged(blocks: list[dict[RowKey, Row]]) -> dict[RowKey, Row]:
    """Add rows up as the upsert of storage/postgres.py does."""
    found: dict[RowKey, Row] = {}
    for rows in blocks:
        for place, row in rows.items():
            there = found.setdefault(place, Row(row.metric, row.kind, row.key, row.bucket))
            there.count += row.count
            if row.value is not None:
                values = [value for value in (there.value, row.value) if value is not None]
                there.value = {"minimum": min, "maximum": max}.get(row.kind, exact_sum)(values)
            if row.at is not None and (there.at is None or (row.at, row.data) > (there.at, there.data)):
                there.at, there.data = row.at, row.data
    return dict(sorted(found.items()))


def exact_sum(values: list[Decimal]) -> Decimal:
    return functools.reduce(EXACT.add, values)


@given(RECEIVED, st.integers(1, 5), st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_any_split_and_order_of_documents_adds_up_to_one_pass(
    documents: list[tuple[dict[str, Any], datetime]], size: int, chance: random.Random
) -> None:
    at_once = Aggregator(THINGS).rows(documents)
    shuffled = chance.sample(documents, len(documents))
    aggregator = Aggregator(THINGS)
    blocks = [aggregator.rows(shuffled[start : start + size]) for start in range(0, len(shuffled), size)]

    assert merged(blocks) == at_once
    assert list(at_once) == sorted(at_once)


def rows_of(metric: Metric, *documents: dict[str, Any]) -> list[tuple[str, int, Any]]:
    pipeline = Pipeline(name="things", accepts=Thing, example={}, metrics=[metric])
    rows = Aggregator(pipeline).rows((document, START) for document in documents)
    return [(row.key, row.count, row.value) for row in rows.values()]


def test_sums_are_exact() -> None:
    weights = [{"weight": weight} for weight in (0.1, 0.2, 1e300, -1e300, 1e-300)]

    [(_, count, total)] = rows_of(Sum("s", of="weight"), *weights)

    assert (count, total) == (5, EXACT.add(Decimal("0.3"), Decimal("1E-300")))


def test_a_sum_that_would_be_rounded_is_refused() -> None:
    with pytest.raises(ArithmeticError):
        rows_of(Sum("s", of="cost"), {"cost": "1E+5000"}, {"cost": "1E-5000"})


def test_each_element_of_a_list_counts_by_itself() -> None:
    found = rows_of(Count("c", by="tags[]"), {"tags": ["a", "b", "a"]}, {"tags": []}, {"tags": None}, {})

    assert found == [('["a"]', 2, None), ('["b"]', 1, None)]


def test_values_that_python_holds_equal_are_keys_of_their_own() -> None:
    found = rows_of(Count("c", by="tags[]"), *({"tags": [tag]} for tag in (1, True, 1.0, "1", 0.0, -0.0)))

    assert found == [('["-0.0"]', 1, None), ('["0.0"]', 1, None), ('["1"]', 2, None), ('["1.0"]', 1, None),
                     ('["true"]', 1, None)]  # fmt: skip


def test_a_missing_key_is_null_and_no_text() -> None:
    assert rows_of(Count("c", by="name"), {"name": None}, {}, {"name": "null"}) == [
        ('["null"]', 1, None),
        ("[null]", 2, None),
    ]


def test_documents_without_the_value_take_no_part() -> None:
    assert rows_of(Minimum("m", of="offer.price"), {"offer": None}, {"offer": {"price": 3}}, {}) == [("[]", 1, 3)]


def test_a_trend_counts_documents_without_the_value_too() -> None:
    assert rows_of(Trend("t", every="1m", of="cost"), {"cost": None}, {"cost": "2.5"}) == [("[]", 2, Decimal("2.5"))]


@pytest.mark.parametrize(
    ("at", "every", "bucket"),
    [
        ("2026-01-01T00:00:59.999999Z", "1m", "2026-01-01T00:00:00Z"),
        ("2026-01-01T00:01:00Z", "1m", "2026-01-01T00:01:00Z"),
        ("2026-01-01T00:30:00+01:00", "1d", "2025-12-31T00:00:00Z"),
        ("1969-12-31T23:59:59Z", "1h", "1969-12-31T23:00:00Z"),
        ("2026-01-01T12:00:00", "1d", "2026-01-01T00:00:00Z"),
    ],
)
def test_a_trend_counts_in_buckets_of_utc(at: str, every: str, bucket: str) -> None:
    pipeline = Pipeline(name="p", accepts=Thing, example={}, metrics=[Trend("t", every=every, at="at")])

    [row] = Aggregator(pipeline).rows([({"at": at}, START)]).values()

    assert row.bucket == datetime.fromisoformat(bucket)


def test_a_metric_without_buckets_has_one() -> None:
    pipeline = Pipeline(name="p", accepts=Thing, example={}, metrics=[Count("c")])

    [row] = Aggregator(pipeline).rows([({}, START)]).values()

    assert row.bucket == NO_BUCKET


def test_the_latest_is_so_by_its_own_time_and_then_by_content() -> None:
    pipeline = Pipeline(name="p", accepts=Thing, example={}, metrics=[Latest("l", at="seconds", of=("name",))])
    documents = [{"name": n, "seconds": s} for n, s in (("late", 9), ("a", 7), ("b", 9), ("z", 1), ("x", None))]

    [row] = Aggregator(pipeline).rows((document, START) for document in documents).values()

    assert (row.count, row.data) == (4, '{"name":"late"}')
    assert row.at == datetime.fromtimestamp(9, UTC)


def test_a_bucket_that_postgres_would_hold_as_an_infinity_is_refused() -> None:
    pipeline = Pipeline(name="p", accepts=Thing, example={}, metrics=[Trend("t", every="1d", at="at")])

    with pytest.raises(ValueError, match="infinity"):
        Aggregator(pipeline).rows([({"at": "0001-01-01T05:00:00Z"}, START)])


@pytest.mark.parametrize("value", ["NaN", "sNaN", "Infinity", "-Infinity"])
def test_a_value_that_is_not_finite_is_refused(value: str) -> None:
    pipeline = Pipeline(name="p", accepts=Thing, example={}, metrics=[Sum("s", of="seconds")])

    with pytest.raises(ValueError, match="cannot count"):
        Aggregator(pipeline).rows([({"seconds": value}, START)])
