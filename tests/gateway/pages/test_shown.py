"""Metrics as tables and bars."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from gateway.pages.shown import Chart, Figure, Table, number, shown
from headrace.pipeline import Count, Distinct, GroupBy, Latest, Metric, Minimum, Sum, Trend
from headrace.registry import load_pipelines

COUNT = Count("by_country", by="country")


def table(metric: Metric, data: Any, total: int = 2) -> Table:
    found = shown(metric, {"metric": metric.name, "kind": metric.kind, "count": total, "data": data})
    assert isinstance(found, Table)
    return found


def chart(metric: Trend, data: list[dict[str, Any]]) -> Chart:
    found = shown(metric, {"metric": metric.name, "kind": metric.kind, "count": len(data), "data": data})
    assert isinstance(found, Chart)
    return found


def test_a_count_is_a_table_with_bars() -> None:
    found = table(COUNT, {"France": 1200, "": 300}, 7)

    assert (found.title, found.about, found.heads, found.value_heads, found.total) == (
        "By country",
        "Documents per country.",
        ("Country",),
        ("Documents",),
        7,
    )
    assert [(row.keys, row.cells[0].text, row.share) for row in found.rows] == [
        (("France",), "1,200", 100.0),
        (("",), "300", 25.0),
    ]


def test_only_the_first_ten_are_shown() -> None:
    assert len(table(COUNT, {str(key): 1 for key in range(50)}, 50).rows) == 10


def test_keys_of_several_fields_are_columns() -> None:
    metric = Minimum("least", of="min_offer.price", by=("hotel_id", "min_offer.advertiser"))
    found = table(metric, {"6036": {"Amoma": 5, "Mercure": 7}, "7": {"Amoma": 9}})

    assert found.heads == ("Hotel id", "Advertiser")
    assert [row.keys for row in found.rows] == [("6036", "Amoma"), ("6036", "Mercure"), ("7", "Amoma")]
    # A bar would make the least price look worst.
    assert {row.share for row in found.rows} == {None}


def test_amounts_below_zero_have_no_bars() -> None:
    found = table(Sum("revenue", of="amount", by="country"), {"France": Decimal("2.50"), "EIRE": Decimal("-1.10")})

    assert [(row.cells[0].text, row.share) for row in found.rows] == [("2.50", None), ("-1.10", None)]


def test_the_newest_are_a_table_of_their_fields() -> None:
    newest = {"at": "2026-01-01T08:30:00.000000Z", "order_id": "1", "sent_at": "2026-01-01T08:30:00Z", "latitude": 1.5}
    found = table(
        Latest("position", by="order_id", at="sent_at", of=("order_id", "sent_at", "latitude")), {"1": newest}
    )

    assert (found.heads, found.value_heads) == (("Order id",), ("At", "Latitude"))
    assert [cell.text for cell in found.rows[0].cells] == ["2026-01-01 08:30:00", "1.5"]


def test_different_values_are_a_figure() -> None:
    found = shown(Distinct("businesses", of="business_id"), {"count": 1, "data": {}, "value": 31})

    assert found == Figure("Businesses", "How many different business id, of the newest versions.", "31")


def test_every_metric_of_every_pipeline_can_be_shown() -> None:
    for metric in (metric for pipeline in load_pipelines().values() for metric in pipeline.metrics):
        answer = {"count": 0, "data": [] if isinstance(metric, Trend) else {}, "value": None}
        assert shown(metric, answer).about


def test_groups_are_told_as_what_they_are() -> None:
    assert table(GroupBy("by_status", by="status"), {"active": 3}).about == "Newest versions per status."


def test_a_metric_without_a_key_is_a_figure() -> None:
    found = shown(Sum("revenue", of="amount"), {"count": 1, "data": {}, "value": Decimal("1234.50")})

    assert found == Figure("Revenue", "Sum of amount.", "1,234.50")


def test_a_trend_has_a_bar_for_each_bucket_in_its_place() -> None:
    found = chart(
        Trend("per_minute", every="1m"),
        [
            {"at": "2026-01-01T00:00:00Z", "count": 2},
            {"at": "2026-01-01T00:03:00Z", "count": 1},
            {"at": "2026-01-01T00:04:00Z", "count": 4},
        ],
    )

    assert found.slots == 24
    assert [(bar.x, bar.y, bar.height) for bar in found.bars] == [(19, 50.0, 50.0), (22, 75.0, 25.0), (23, 0.0, 100.0)]
    assert found.bars[2].label == "2026-01-01 00:04: 4"
    assert (found.first, found.last, found.greatest) == ("2025-12-31 23:41", "2026-01-01 00:04", "4")


def test_keys_of_a_trend_are_added_up_and_sums_may_be_below_zero() -> None:
    found = chart(
        Trend("by_day", every="1d", by="country", of="amount"),
        [
            {"at": "2026-01-01T00:00:00Z", "key": "a", "count": 1, "sum": Decimal("1.5")},
            {"at": "2026-01-01T00:00:00Z", "key": "b", "count": 1, "sum": Decimal("1.5")},
            {"at": "2026-01-02T00:00:00Z", "key": "a", "count": 1, "sum": Decimal(-1)},
        ],
    )

    assert [(bar.y, bar.height, bar.label) for bar in found.bars] == [
        (0.0, 75.0, "2026-01-01: 3.0"),
        (75.0, 25.0, "2026-01-02: -1"),
    ]


def test_of_a_long_trend_the_end_is_shown() -> None:
    points = [{"at": f"2026-01-{day:02}T{hour:02}:00:00Z", "count": 1} for day in range(1, 15) for hour in range(24)]
    found = chart(Trend("per_hour", every="1h"), points)

    assert (len(found.bars), found.slots, found.last) == (120, 120, "2026-01-14 23:00")


@pytest.mark.parametrize("metric", [COUNT, Trend("per_minute", every="1m"), GroupBy("by_status", by="status")])
def test_nothing_yet_is_shown_as_nothing(metric: Metric) -> None:
    found = shown(metric, {"count": 0, "data": [] if isinstance(metric, Trend) else {}})

    assert isinstance(found, Table | Chart)
    assert not (found.rows if isinstance(found, Table) else found.bars)


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (1234567, "1,234,567"), (Decimal("0.10"), "0.10"), (1.5, "1.5"), (True, "yes"), (0, "0")],
)
def test_numbers_are_readable(value: Any, text: str) -> None:
    assert number(value) == text
