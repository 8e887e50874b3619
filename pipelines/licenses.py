"""Licences: business licences of New York City as its open data names them; of each licence the newest version.

Taken are rows of the Socrata API (old and current field names), rows of the portal's CSV files (old and current
headers) and plain documents. Names are matched without regard to case and punctuation: `License Number`,
`DCA License Number` and `license_nbr` are one field. Two names of one field with different values refuse the row.
The city adds columns now and then, so what has no field here is kept as it came, under `other`.

Empty text is no value. Numbers of licences, ZIP codes and the like are text and keep their leading zeros; a JSON
number there is refused, since its zeros may be lost already. Dates are `2024-08-01`, the API's midnight
`2024-08-01T00:00:00.000` or the portal's month/day/year; day first is never guessed.

The newest version is the one that was updated last, where the row says when (Socrata's `:updated_at`); then the one
that expires last, was created last, has its borough and its place; and of versions that are alike in all of it the
last to arrive.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from headrace.errors import HeadraceError
from headrace.pipeline import Distinct, ErrorShape, GroupBy, Listing, Pipeline, Question, Report

# What the city's files have called a field, besides what it is called here.
NAMES: Final[Mapping[str, str]] = {
    "dca_license_number": "license_nbr",
    "license_number": "license_nbr",
    "business_name_2": "dba_trade_name",
    "industry": "business_category",
    "initial_issuance_date": "license_creation_date",
    "expiration_date": "lic_expir_dd",
    "license_expiration_date": "lic_expir_dd",
    "detail": "details",
    "detail_2": "details",
    "contact_phone_number": "contact_phone",
    "building_number": "address_building",
    "street1": "address_street_name",
    "street2": "address_street_name_2",
    "secondary_address_street_name": "address_street_name_2",
    "street3": "address_street_name_3",
    "apt_suite": "unit",
    "city": "address_city",
    "state": "address_state",
    "zip_code": "address_zip",
    "borough": "address_borough",
    "census_block_2010": "census_block",
    "census_tract_2010": "census_tract",
}
_MOST_OTHERS: Final = 100
_SEPARATORS = re.compile(r"[^0-9a-z]+")
_MONTH_FIRST = re.compile(r"([0-9]{1,2})/([0-9]{1,2})/([0-9]{4})(?: 12:00:00 AM)?")
_YEAR_FIRST = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})(?:[T ]00:00:00(?:\.0{1,9})?Z?)?")
_MOMENT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}.*")


# A file has the same few columns in every row. Bounded, since publishers may make names up.
@lru_cache(maxsize=4096)
def plain_name(name: str) -> str:
    """Return a column's name in lower case with single underscores: `DBA/Trade Name` is `dba_trade_name`."""
    return _SEPARATORS.sub("_", name.lower()).strip("_")


def read_day(text: str) -> date:
    """Return the day that the text names.

    Raises:
        ValueError: it is of no form that is taken, or there is no such day.
    """
    if match := _MONTH_FIRST.fullmatch(text):
        month, day, year = map(int, match.groups())
    elif match := _YEAR_FIRST.fullmatch(text):
        year, month, day = map(int, match.groups())
    else:
        raise ValueError("not a day")
    # The first and the last day of Python's calendar are infinities to Postgres' client.
    if not 1 < year < 9999:
        raise ValueError(f"no licence is of the year {year}")
    return date(year, month, day)


def _day(value: object) -> date:
    # pydantic's own reader takes numbers, and text of digits, as seconds since 1970.
    if isinstance(value, str):
        try:
            return read_day(value)
        except ValueError:
            pass
    raise PydanticCustomError(
        "date_format", "Input should be an existing day as 2024-08-01, 2024-08-01T00:00:00.000 or month/day/year"
    )


def _moment(value: object) -> datetime:
    if isinstance(value, str) and _MOMENT.fullmatch(value):
        try:
            moment = datetime.fromisoformat(value)
            moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
            if 1 < moment.year < 9999:
                return moment
        except (ValueError, OverflowError):
            pass
    raise PydanticCustomError("datetime_format", "Input should be a date and time in ISO 8601; UTC without a zone")


def _degrees(value: object) -> object:
    if isinstance(value, bool):
        raise PydanticCustomError("float_type", "Input should be a valid number")
    return value


Day = Annotated[
    date,
    BeforeValidator(_day),
    WithJsonSchema(
        {
            "type": "string",
            "description": "year-month-day, also with midnight behind it, or month/day/year",
            "examples": ["2024-08-01", "2024-08-01T00:00:00.000", "08/01/2024"],
        },
        mode="validation",
    ),
]
Moment = Annotated[
    datetime,
    BeforeValidator(_moment),
    WithJsonSchema({"type": "string", "description": "ISO 8601; UTC where no zone is given"}, mode="validation"),
]
Latitude = Annotated[
    float,
    BeforeValidator(_degrees),
    Field(ge=-90, le=90, allow_inf_nan=False, description="degrees north; a number, or one as text"),
]
Longitude = Annotated[
    float,
    BeforeValidator(_degrees),
    Field(ge=-180, le=180, allow_inf_nan=False, description="degrees east; a number, or one as text"),
]
Text = Annotated[str, Field(max_length=1024)]


class License(BaseModel):
    """A licence to do business, as a row of the city's data has it."""

    # Any further column is taken, and kept under `other`; `_gathered` has moved it there before fields are looked at.
    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra={"additionalProperties": True})

    license_nbr: str = Field(
        title="License number", pattern="^[!-~]{1,64}$", description="number of the licence, with its leading zeros"
    )
    license_type: Text | None = Field(None, description="Business, Premises, Individual")
    license_status: Text | None = Field(None, description="Active, Inactive, Expired, Surrendered, Revoked, …")
    license_creation_date: Day | None = None
    lic_expir_dd: Day | None = Field(None, title="Expiration date", description="day on which it expires")
    business_unique_id: Text | None = Field(None, title="Business unique ID")
    business_name: Text | None = None
    dba_trade_name: Text | None = Field(None, title="DBA or trade name")
    business_category: Text | None = Field(None, description="once called industry")
    details: str | None = Field(None, max_length=16_384)
    contact_phone: Text | None = None
    address_type: Text | None = None
    address_building: Text | None = None
    address_street_name: Text | None = None
    address_street_name_2: Text | None = None
    address_street_name_3: Text | None = None
    unit_type: Text | None = None
    unit: Text | None = None
    address_city: Text | None = None
    address_state: Text | None = None
    address_zip: Text | None = Field(None, title="ZIP code")
    address_borough: Text | None = None
    borough_code: Text | None = None
    community_board: Text | None = None
    council_district: Text | None = None
    bin: Text | None = Field(None, title="BIN", description="building identification number")
    bbl: Text | None = Field(None, title="BBL", description="borough, block and lot")
    nta: Text | None = Field(None, title="NTA", description="neighborhood tabulation area")
    census_block: Text | None = None
    census_tract: Text | None = None
    latitude: Latitude | None = None
    longitude: Longitude | None = None
    updated_at: Moment | None = Field(None, description="when the city last changed the row; Socrata's :updated_at")
    other: dict[str, Any] = Field({}, max_length=_MOST_OTHERS, description="columns that have no field here")

    @model_validator(mode="before")
    @classmethod
    def _gathered(cls, row: Any) -> Any:
        return gathered(row, cls.model_fields.keys()) if isinstance(row, dict) else row


def gathered(row: Mapping[str, Any], fields: Any) -> dict[str, Any]:
    """Return a row with its values under the fields' names, and the rest under `other`; what is empty is left out.

    Raises:
        PydanticCustomError: two names of one field have different values, or a name has no letter and no digit.
    """
    found: dict[str, Any] = {}
    origin: dict[str, str] = {}
    others = row.get("other")
    rows = [row, others] if isinstance(others, dict) else [row]
    for one in rows:
        for given, value in one.items():
            if isinstance(value, str):
                value = value.strip()
            if value is None or value == "" or (given == "other" and isinstance(value, dict)):
                continue
            plain = plain_name(given)
            name = NAMES.get(plain, plain)
            if not name:
                raise PydanticCustomError("column_name", "A column's name should have a letter or a digit")
            if name in found and found[name] != value:
                raise PydanticCustomError(
                    "two_values",
                    "{first} and {second} are names of one field with different values; send one of them",
                    {"first": origin[name][:80], "second": given[:80]},
                )
            found[name], origin[name] = value, given
    known = {name: value for name, value in found.items() if name in fields}
    rest = {name: value for name, value in found.items() if name not in fields}
    return {**known, "other": rest} if rest else known


class Window(BaseModel):
    days: int = Field(30, ge=1, le=366, description="how many days, today included")


def analytics(answers: dict[str, dict[str, Any]], _question: Question) -> Any:
    """Return four counts."""
    status = answers["by_status"]["data"]
    return {
        "total_licenses": answers["licenses"]["value"],
        "active_licenses": status.get("Active", 0),
        "expired_licenses": status.get("Expired", 0),
        "unique_businesses": answers["businesses"]["value"],
    }


def grouped(metric: str) -> Callable[[dict[str, dict[str, Any]], Question], Any]:
    """Return a shape that gives [{_id, count}], most first; `_id` is null for licences without a value."""

    def shape(answers: dict[str, dict[str, Any]], _question: Question) -> Any:
        return [{"_id": value or None, "count": count} for value, count in answers[metric]["data"].items()]

    return shape


def trend(answers: dict[str, dict[str, Any]], question: Question) -> Any:
    """Return [{date, count}] of licences created in the last days, ascending."""
    last = question.now.date()
    first = last - timedelta(days=question.parameters.days - 1)
    days = answers["by_creation_date"]["data"]
    return [
        {"date": day, "count": count}
        for day, count in sorted(days.items())
        if first.isoformat() <= day <= last.isoformat()
    ]


def failure(doing: str) -> list[ErrorShape]:
    """Return how a route of the old API says that it failed."""

    def shape(error: HeadraceError) -> Any:
        return {"error": f"Error {doing}: {error.detail}"}

    return [ErrorShape(on="5xx", status=500, shape=shape)]


_KEPT_SECONDS: Final = 3600.0

licenses = Pipeline(
    name="licenses",
    description="Business licences of New York City",
    accepts=License,
    key=("license_nbr",),
    entity=True,
    newest_by=("updated_at", "lic_expir_dd", "license_creation_date", "address_borough?", "latitude?"),
    metrics=[
        GroupBy("licenses"),
        GroupBy("by_status", by="license_status"),
        GroupBy("by_category", by="business_category"),
        GroupBy("by_borough", by="address_borough"),
        GroupBy("by_creation_date", by="license_creation_date"),
        Distinct("businesses", of="business_unique_id"),
    ],
    views=[
        Report(
            path="/api/analytics",
            metrics=("licenses", "by_status", "businesses"),
            shape=analytics,
            summary="Licences in all, active and expired, and businesses",
            errors=failure("calculating analytics"),
            cache_seconds=_KEPT_SECONDS,
        ),
        *(
            Report(
                path=f"/api/licenses/by-{name}",
                metrics=(f"by_{name}",),
                shape=grouped(f"by_{name}"),
                summary=f"Licences per {name}",
                errors=failure(f"retrieving licenses by {name}"),
                cache_seconds=_KEPT_SECONDS,
            )
            for name in ("status", "category", "borough")
        ),
        Report(
            path="/api/licenses/trend",
            metrics=("by_creation_date",),
            shape=trend,
            asks=Window,
            summary="Licences per day of their creation, the last days",
            errors=failure("retrieving license trend"),
            cache_seconds=_KEPT_SECONDS,
        ),
        Listing(
            path="/api/licenses/locations",
            present=("latitude",),
            fields=("business_name", "license_nbr", "latitude", "longitude"),
            sort="license_nbr",
            limit=1000,
            summary="Where businesses with a licence are",
            errors=failure("retrieving license locations"),
            cache_seconds=_KEPT_SECONDS,
        ),
        Listing(
            path="/api/licenses",
            sort="license_nbr",
            limit=1000,
            per_page=10,
            summary="Licences, page by page",
            errors=failure("retrieving licenses"),
            cache_seconds=_KEPT_SECONDS,
        ),
    ],
    example={
        "license_nbr": "0123456-DCA",
        "license_type": "Premises",
        "license_status": "Active",
        "license_creation_date": "2024-08-01T00:00:00.000",
        "lic_expir_dd": "2026-12-31T00:00:00.000",
        "business_unique_id": "BA-1234567-2024",
        "business_name": "CORNER LAUNDRY INC.",
        "business_category": "Laundries",
        "address_building": "12",
        "address_street_name": "MAIN STREET",
        "address_city": "BROOKLYN",
        "address_state": "NY",
        "address_zip": "11231",
        "address_borough": "Brooklyn",
        "latitude": 40.678093,
        "longitude": -73.997967,
    },
)
