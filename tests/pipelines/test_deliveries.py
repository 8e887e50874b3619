"""Deliveries: what a location must be, and that an order's track is the same whatever order its locations came in."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from itertools import permutations
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.document import now, parse_time
from headrace.errors import DocumentError, UnavailableError
from headrace.identity import document_id
from headrace.rollup import Aggregator, Row
from headrace.schema import malformed, validate
from headrace.views import Question, answered
from pipelines import deliveries as module
from pipelines.deliveries import STEPS, Recent, StoredLocation, deliveries, shown, track_of

EXAMPLE = dict(deliveries.example)
NOW = datetime(2024, 2, 1, 12, 0, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _noon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "clock", lambda: NOW)


def stored(**changes: Any) -> StoredLocation:
    found = deliveries.apply(validate(deliveries, json.dumps({**EXAMPLE, **changes}).encode()))
    assert isinstance(found, StoredLocation)
    return found


@pytest.mark.parametrize(
    ("changes", "pointer", "code"),
    [
        ({"order_id": None}, "/order_id", "string_type"),
        ({"order_id": True}, "/order_id", "string_type"),
        ({"order_id": 1.5}, "/order_id", "string_type"),
        ({"order_id": -1}, "/order_id", "string_pattern_mismatch"),
        ({"order_id": ""}, "/order_id", "string_pattern_mismatch"),
        ({"order_id": "a/b"}, "/order_id", "string_pattern_mismatch"),
        ({"deliverer_id": "a" * 65}, "/deliverer_id", "string_pattern_mismatch"),
        ({"delivery_state": "lost"}, "/delivery_state", "literal_error"),
        ({"delivery_state": None}, "/delivery_state", "literal_error"),
        ({"latitude": 90.000001}, "/latitude", "less_than_equal"),
        ({"latitude": -90.000001}, "/latitude", "greater_than_equal"),
        ({"latitude": "NaN"}, "/latitude", "finite_number"),
        ({"latitude": True}, "/latitude", "float_type"),
        ({"latitude": "north"}, "/latitude", "float_parsing"),
        ({"longitude": 180.5}, "/longitude", "less_than_equal"),
        ({"longitude": "-Infinity"}, "/longitude", "finite_number"),
        ({"latitude": 0, "longitude": 0}, "/longitude", "no_fix"),
        ({"timestamp": "yesterday"}, "/timestamp", "date_format"),
        ({"timestamp": "2024-02-30T12:00:00Z"}, "/timestamp", "date_format"),
        ({"timestamp": "2024-01-31"}, "/timestamp", "date_format"),
        ({"timestamp": 1706702400}, "/timestamp", "date_format"),
        ({"timestamp": "9999-12-31T23:59:59-10:00"}, "/timestamp", "date_format"),
        ({"timestamp": "1999-12-31T23:59:59Z"}, "/timestamp", "time_too_early"),
        ({"timestamp": "1970-01-01 00:00:00"}, "/timestamp", "time_too_early"),
        ({"timestamp": "2024-02-02T12:00:00.000001Z"}, "/timestamp", "time_in_future"),
        ({"speed": 12}, "/speed", "extra_forbidden"),
    ],
)
def test_what_cannot_be_is_refused_by_field_and_rule(changes: dict[str, Any], pointer: str, code: str) -> None:
    with pytest.raises(DocumentError) as refused:
        stored(**changes)

    assert [(error.pointer, error.code) for error in refused.value.errors] == [(pointer, code)]


@pytest.mark.parametrize("field", list(EXAMPLE))
def test_every_field_is_required(field: str) -> None:
    body = {name: value for name, value in EXAMPLE.items() if name != field}

    with pytest.raises(DocumentError) as refused:
        validate(deliveries, json.dumps(body).encode())

    assert [(error.pointer, error.code) for error in refused.value.errors] == [(f"/{field}", "missing")]


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2014-09-13 07:24:32", datetime(2014, 9, 13, 7, 24, 32, tzinfo=UTC)),
        ("2014-09-13T07:24:32.5", datetime(2014, 9, 13, 7, 24, 32, 500_000, tzinfo=UTC)),
        ("2014-09-13T07:24:32-03:00", datetime(2014, 9, 13, 10, 24, 32, tzinfo=UTC)),
        ("2024-02-02T12:00:00Z", NOW + timedelta(days=1)),
        ("2000-01-01T00:00:00Z", module.EARLIEST),
    ],
)
def test_times_are_utc_where_no_zone_is_given(text: str, moment: datetime) -> None:
    assert stored(timestamp=text).timestamp == moment


def test_numbers_and_texts_are_one_order() -> None:
    assert stored(order_id=43) == stored(order_id="43") == stored(order_id=" 43 ")


@pytest.mark.parametrize(
    ("value", "as_sent"), [("43", 43), ("0", 0), ("0x2318", "0x2318"), ("007", "007"), ("9" * 16, "9" * 16)]
)
def test_whole_numbers_are_shown_as_the_apps_sent_them(value: str, as_sent: object) -> None:
    location = {**EXAMPLE, "step": 1, "order_id": value, "deliverer_id": "7"}

    assert shown(location) == {**EXAMPLE, "order_id": as_sent}


def identity(**changes: Any) -> str:
    return document_id(deliveries, "me", validate(deliveries, json.dumps({**EXAMPLE, **changes}).encode()), None)


def test_the_same_location_is_one_document_and_any_other_value_makes_another() -> None:
    same = [identity(), identity(order_id="43"), identity(timestamp="2024-01-31T13:00:00+01:00")]
    others = [
        identity(order_id=44),
        identity(deliverer_id=8),
        identity(delivery_state="arrived"),
        identity(timestamp="2024-01-31T12:00:00.001Z"),
        identity(latitude=-10.9394),
        identity(longitude=-37.0628),
    ]

    assert len(set(same)) == 1
    assert len({*same, *others}) == 7


# Few values, so that moments, places and states meet often.
locations = st.lists(
    st.builds(
        lambda second, state, deliverer, tenth: stored(
            timestamp=f"2024-01-31T12:00:0{second}Z",
            delivery_state=state,
            deliverer_id=deliverer,
            latitude=tenth / 10,
        ).model_dump(mode="json"),
        st.integers(0, 5),
        st.sampled_from(STEPS),
        st.integers(7, 8),
        st.integers(1, 3),
    ),
    min_size=1,
    max_size=12,
)


def newest(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what the metric `orders` says, each location being a block of its own."""
    aggregator, so_far = Aggregator(deliveries), None
    for location in found:
        [row] = [row for row in aggregator.rows([(location, NOW)]).values() if row.metric == "orders"]
        if so_far is None or _order(row) > _order(so_far):
            so_far = row
    assert so_far is not None
    assert so_far.data
    return dict(msgspec.json.decode(so_far.data))


def _order(row: Row) -> tuple[Any, ...]:
    return row.at, row.data


@given(locations, st.randoms(use_true_random=False), st.lists(st.integers(0, 11), max_size=6))
def test_shuffled_and_repeated_locations_give_the_same_track(
    found: list[dict[str, Any]], random: Random, again: list[int]
) -> None:
    as_they_came = [*found, *(found[index % len(found)] for index in again)]
    random.shuffle(as_they_came)

    track = track_of(as_they_came)

    assert track == track_of(found)
    times = [location["timestamp"] for location in track["locations"]]
    assert times == sorted(times)
    assert track["count"] == len({json.dumps(location, sort_keys=True) for location in found})


@given(locations, st.randoms(use_true_random=False))
def test_the_newest_location_is_in_the_state_of_the_track_whatever_came_first(
    found: list[dict[str, Any]], random: Random
) -> None:
    as_they_came = [*found]
    random.shuffle(as_they_came)

    assert newest(as_they_came)["delivery_state"] == track_of(found)["state"]
    assert newest(as_they_came) == newest(found)


@given(locations)
def test_a_track_without_anomalies_goes_from_start_only_on(found: list[dict[str, Any]]) -> None:
    track = track_of(found)
    steps = [STEPS.index(location["delivery_state"]) for location in track["locations"]]
    deliverers = {location["deliverer_id"] for location in track["locations"]}
    sound = steps[0] == 0 and steps == sorted(steps) and len(deliverers) == 1

    assert (track["anomalies"] == []) == sound


def at(second: int, state: str, deliverer: int = 7) -> dict[str, Any]:
    return stored(timestamp=f"2024-01-31T12:00:{second:02d}Z", delivery_state=state, deliverer_id=deliverer).model_dump(
        mode="json"
    )


@pytest.mark.parametrize(
    ("found", "state", "anomalies"),
    [
        ([at(1, "start")], "start", []),
        ([at(1, "start"), at(2, "arrived")], "arrived", []),
        ([at(1, "start"), at(1, "on_the_way"), at(1, "arrived")], "arrived", []),
        ([at(1, "on_the_way")], "on_the_way", [("no_start", "2024-01-31T12:00:01Z")]),
        (
            [at(1, "start"), at(2, "arrived"), at(3, "start")],
            "start",
            [("goes_back", "2024-01-31T12:00:03Z")],
        ),
        (
            [at(1, "start"), at(2, "arrived"), at(3, "on_the_way"), at(4, "on_the_way"), at(5, "arrived")],
            "arrived",
            [("goes_back", "2024-01-31T12:00:03Z"), ("goes_back", "2024-01-31T12:00:04Z")],
        ),
        (
            [at(1, "start"), at(2, "on_the_way", 8), at(3, "arrived", 8)],
            "arrived",
            [("other_deliverer", "2024-01-31T12:00:02Z")],
        ),
    ],
)
def test_a_location_against_the_order_of_states_is_named_in_the_track(
    found: list[dict[str, Any]], state: str, anomalies: list[tuple[str, str]]
) -> None:
    for order in list(permutations(found))[:24]:
        track = track_of(order)

        assert track["state"] == state
        assert [(one["code"], one["timestamp"]) for one in track["anomalies"]] == anomalies


def test_an_order_without_locations_has_an_empty_track() -> None:
    empty: dict[str, Any] = {"state": None, "count": 0, "complete": True, "anomalies": [], "locations": []}

    assert track_of([]) == empty


def test_a_part_of_a_track_need_not_begin_with_the_start() -> None:
    assert track_of([at(2, "on_the_way")], complete=False)["anomalies"] == []


def view(path: str) -> Any:
    return next(one for one in deliveries.views if one.path == f"/v1/deliverer_location/{path}")


def test_the_old_routes_answer_in_their_shapes() -> None:
    newest_one = {"at": "2024-01-31T12:00:03Z", **at(3, "arrived")}
    away = UnavailableError("postgres did not answer within 2 s.", code="postgres_unavailable")
    nowhere = DocumentError("It breaks the schema.")

    for lookup in (view("last/{order_id}"), view("last/")):
        assert lookup.shape(newest_one, None) == {"data": [shown(at(3, "arrived"))]}
        assert lookup.shape(None, None) == {"data": []}
        assert answered(lookup.errors, away) == (500, {"detail": "Database not responding"})
    assert view("").shape({"id": "x"}) == {"status": "OK"}
    assert answered(view("").errors, malformed("no")) == (400, {"status": "ERROR", "message": "Invalid JSON"})
    assert answered(view("").errors, nowhere) is None


@pytest.mark.parametrize(("minutes", "orders"), [(None, ["45", "43"]), (60, ["45"])])
def test_live_orders_are_those_that_have_not_arrived_the_last_heard_of_first(
    minutes: int | None, orders: list[str]
) -> None:
    found = {
        "43": {"at": "2024-01-31T12:00:01Z", **at(1, "on_the_way"), "order_id": "43"},
        "44": {"at": "2024-02-01T11:30:00Z", **at(2, "arrived"), "order_id": "44"},
        "45": {"at": "2024-02-01T11:30:00Z", **at(3, "start"), "order_id": "45"},
    }

    answer = view("live").shape({"orders": {"data": found}}, Question(Recent(minutes=minutes), NOW))

    assert [str(one["order_id"]) for one in answer["data"]] == orders
    assert answer["orders"] == {"start": 1, "on_the_way": 1 if minutes is None else 0, "arrived": 1}


def test_documents_count_by_state_order_and_day_of_their_own_time() -> None:
    found = [at(1, "start"), at(2, "on_the_way"), at(3, "on_the_way"), {**at(4, "arrived"), "order_id": "44"}]

    rows = Aggregator(deliveries).rows((location, parse_time(now())) for location in found).values()

    counts = {(row.metric, row.key): row.count for row in rows}
    assert counts["states", '["on_the_way"]'] == 2
    assert counts["locations_by_order", '["43"]'] == 3
    [day] = [row for row in rows if row.metric == "by_day"]
    assert (day.bucket, day.count) == (datetime(2024, 1, 31, tzinfo=UTC), 4)
