"""Licences: names old and new, values in their types, nothing guessed; what the old API's routes say."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import msgspec
import pytest

from headrace.errors import DocumentError, UnavailableError
from headrace.pipeline import Question, Report
from headrace.precedence import precedence
from headrace.schema import validate
from headrace.views import Answering, answered
from pipelines.licenses import License, licenses, plain_name


def stored(row: Any) -> License:
    found = licenses.apply(validate(licenses, msgspec.json.encode(row)))
    assert isinstance(found, License)
    return found


def values(row: Any) -> dict[str, Any]:
    return stored(row).model_dump(exclude_defaults=True)


def broken_rules(row: Any) -> set[tuple[str, str]]:
    with pytest.raises(DocumentError) as refused:
        stored(row)
    return {(error.pointer, error.code) for error in refused.value.errors}


EXPECTED = {
    "license_nbr": "0012345-DCA",
    "license_creation_date": date(2024, 3, 1),
    "lic_expir_dd": date(2026, 2, 28),
    "business_category": "Garage",
    "dba_trade_name": "IMPARK",
    "address_zip": "00501",
    "latitude": 40.5,
}


@pytest.mark.parametrize(
    "row",
    [
        {
            "license_nbr": "0012345-DCA",
            "license_creation_date": "2024-03-01T00:00:00.000",
            "lic_expir_dd": "2026-02-28T00:00:00.000",
            "industry": "Garage",
            "business_name_2": "IMPARK",
            "address_zip": "00501",
            "latitude": "40.5",
        },
        {
            "license_nbr": "0012345-DCA",
            "license_creation_date": "2024-03-01",
            "lic_expir_dd": "2026-02-28",
            "business_category": "Garage",
            "dba_trade_name": "IMPARK",
            "address_zip": "00501",
            "latitude": 40.5,
            "longitude": None,
            "license_status": "  ",
        },
        {
            "DCA License Number": "0012345-DCA",
            "License Creation Date": "03/01/2024",
            "License Expiration Date": "02/28/2026",
            "Industry": " Garage ",
            "Business Name 2": "IMPARK",
            "Address ZIP": "00501",
            "Latitude": "40.5",
        },
        {
            "License Number": "0012345-DCA",
            "Initial Issuance Date": "3/1/2024",
            "Expiration Date": "02/28/2026 12:00:00 AM",
            "Business Category": "Garage",
            "DBA/Trade Name": "IMPARK",
            "ZIP Code": "00501",
            "Latitude": "40.5",
            "Longitude": "",
        },
    ],
    ids=["old API", "current API", "old portal", "current portal"],
)
def test_every_form_of_a_row_is_the_same_licence(row: dict[str, Any]) -> None:
    assert values(row) == EXPECTED


def test_columns_without_a_field_are_kept_as_they_came() -> None:
    row = {"license_nbr": "1", "Location": "(40, -73)", ":@computed_region_x": "7", "New Column": {"a": [1]}, "E": ""}
    others = {"location": "(40, -73)", "computed_region_x": "7", "new_column": {"a": [1]}}
    assert values(row) == {"license_nbr": "1", "other": others}
    # What is stored may be sent again.
    assert values({**values(row), "more": "x"}) == {"license_nbr": "1", "other": {**others, "more": "x"}}


def test_a_time_of_change_is_read_in_utc() -> None:
    assert stored({"license_nbr": "1", ":updated_at": "2024-05-01T08:00:00.000-04:00"}).updated_at == datetime(
        2024, 5, 1, 12, tzinfo=UTC
    )


@pytest.mark.parametrize(
    ("row", "rules"),
    [
        ({}, {("/license_nbr", "missing")}),
        ({"license_nbr": " "}, {("/license_nbr", "missing")}),
        ({"license_nbr": 12345}, {("/license_nbr", "string_type")}),
        ({"license_nbr": "a b"}, {("/license_nbr", "string_pattern_mismatch")}),
        ({"license_nbr": "1", "address_zip": 501}, {("/address_zip", "string_type")}),
        *(
            ({"license_nbr": "1", "lic_expir_dd": day}, {("/lic_expir_dd", "date_format")})
            for day in (
                *("31/12/2024", "02/30/2024", "12-31-2024", "12/31/24", "2024-13-01", "20241231", "1/1/0001"),
                *(
                    "2024-12-31T08:30:00.000",
                    "2024-12-31T00:00:00-05:00",
                    "yesterday",
                    1735603200,
                    True,
                    ["2024-01-01"],
                ),
            )
        ),
        ({"license_nbr": "1", "updated_at": "2024-05-01"}, {("/updated_at", "datetime_format")}),
        ({"license_nbr": "1", "updated_at": 1714564800}, {("/updated_at", "datetime_format")}),
        ({"license_nbr": "1", "latitude": "90.1"}, {("/latitude", "less_than_equal")}),
        ({"license_nbr": "1", "latitude": "nan"}, {("/latitude", "greater_than_equal")}),
        ({"license_nbr": "1", "longitude": True}, {("/longitude", "float_type")}),
        ({"license_nbr": "1", "longitude": "40,5"}, {("/longitude", "float_parsing")}),
        ({"license_nbr": "1", "industry": "a", "Business Category": "b"}, {("", "two_values")}),
        ({"license_nbr": "1", "License Number": "2"}, {("", "two_values")}),
        ({"license_nbr": "1", "---": "x"}, {("", "column_name")}),
        ({"license_nbr": "1", "other": "x"}, {("/other", "dict_type")}),
        ({"license_nbr": "1", "business_name": "x" * 1025}, {("/business_name", "string_too_long")}),
        ({"license_nbr": "1", **{f"c{n}": "x" for n in range(101)}}, {("/other", "too_long")}),
        ("0012345-DCA", {("", "model_type")}),
    ],
)
def test_what_cannot_be_meant_is_refused_by_field_and_rule(row: Any, rules: set[tuple[str, str]]) -> None:
    assert broken_rules(row) == rules


def test_two_names_with_one_value_are_one_field() -> None:
    assert values({"license_nbr": "1", "industry": "a", "business_category": " a "})["business_category"] == "a"


def test_names_are_matched_without_case_and_punctuation() -> None:
    names = {
        "DBA/Trade Name": "dba_trade_name",
        "Census Block (2010)": "census_block_2010",
        ":updated_at": "updated_at",
    }
    assert {given: plain_name(given) for given in names} == names


def test_versions_are_in_the_order_of_what_they_say() -> None:
    of = precedence(licenses.newest_by, licenses.fields)
    versions: list[dict[str, Any]] = [
        {},
        {"license_creation_date": "2025-01-01"},
        {"lic_expir_dd": "2022-03-31"},
        {"lic_expir_dd": "2024-03-31", "license_status": "Expired"},
        {"lic_expir_dd": "2026-03-31", "license_creation_date": "2013-01-01"},
        {"lic_expir_dd": "2026-03-31", "license_creation_date": "2013-01-01", "address_borough": "Queens"},
        {
            "lic_expir_dd": "2026-03-31",
            "license_creation_date": "2013-01-01",
            "address_borough": "Queens",
            "latitude": 0,
        },
        {"updated_at": "2020-01-01T00:00:00Z"},
        {"updated_at": "2020-01-01T00:00:00.001Z"},
    ]
    texts = [of(stored({"license_nbr": "1", **one}).model_dump(mode="json")) for one in versions]
    assert texts == sorted(set(texts))


NOW = datetime(2026, 3, 1, 0, 30, tzinfo=UTC)


def report(path: str, **asks: Any) -> Any:
    """Return what a route says of these licences."""
    view = next(view for view in licenses.views if view.path == path)
    assert isinstance(view, Report)
    status = {"Active": 5, "Expired": 2, "Revoked": 1, "": 1}
    days = {"2026-01-30": 1, "2026-01-31": 2, "2026-03-01": 3, "2026-02-02": 1, "2026-03-02": 9, "1999-01-01": 9, "": 4}
    answers: dict[str, dict[str, Any]] = {
        "licenses": {"value": 9, "data": {}},
        "businesses": {"value": 4, "data": {}},
        "by_status": {"data": status},
        "by_category": {"data": {"Garage": 9}},
        "by_borough": {"data": {}},
        "by_creation_date": {"data": days},
    }
    question = Question(view.parameters.model_validate(asks), NOW)
    return view.shape({name: answers[name] for name in view.metrics}, question)


def test_the_old_routes_have_their_exact_shapes() -> None:
    assert report("/api/analytics") == {
        "total_licenses": 9,
        "active_licenses": 5,
        "expired_licenses": 2,
        "unique_businesses": 4,
    }
    assert report("/api/licenses/by-status") == [
        {"_id": "Active", "count": 5},
        {"_id": "Expired", "count": 2},
        {"_id": "Revoked", "count": 1},
        {"_id": None, "count": 1},
    ]
    assert report("/api/licenses/by-category") == [{"_id": "Garage", "count": 9}]
    assert report("/api/licenses/by-borough") == []
    # 30 days, today and 31 January included.
    assert report("/api/licenses/trend") == [
        {"date": "2026-01-31", "count": 2},
        {"date": "2026-02-02", "count": 1},
        {"date": "2026-03-01", "count": 3},
    ]
    assert [point["date"] for point in report("/api/licenses/trend", days=1)] == ["2026-03-01"]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/api/analytics", "Error calculating analytics: "),
        ("/api/licenses/by-status", "Error retrieving licenses by status: "),
        ("/api/licenses/by-category", "Error retrieving licenses by category: "),
        ("/api/licenses/by-borough", "Error retrieving licenses by borough: "),
        ("/api/licenses/trend", "Error retrieving license trend: "),
        ("/api/licenses/locations", "Error retrieving license locations: "),
        ("/api/licenses", "Error retrieving licenses: "),
    ],
)
def test_a_failure_is_told_as_the_old_routes_told_it(path: str, said: str) -> None:
    (view,) = [view for view in licenses.views if view.path == path]
    error = UnavailableError("Postgres is away.")

    assert answered(view.errors, error) == (500, {"error": f"{said}Postgres is away."})
    assert answered(view.errors, DocumentError("page")) is None
    assert isinstance(view, Answering)
    assert view.cache_seconds == 3600
