"""Deliveries: where a deliverer was with an order, and how far the order had come; newest by the event's own time.

A time without a zone is UTC. A location that is sent again, from the same sender, is the one that is there already.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, WithJsonSchema
from pydantic_core import PydanticCustomError

from headrace.pipeline import (
    Count,
    ErrorShape,
    Intake,
    Latest,
    Listing,
    Lookup,
    Pipeline,
    Question,
    Report,
    Trend,
)

State = Literal["start", "on_the_way", "arrived"]
STEPS: Final[tuple[State, ...]] = ("start", "on_the_way", "arrived")

# The clock of a device that was never set says 1970 or 1980.
EARLIEST: Final = datetime(2000, 1, 1, tzinfo=UTC)
# Local time without its zone, read as UTC, is ahead by 14 hours at most.
MOST_AHEAD: Final = timedelta(days=1)

_ID_PATTERN: Final = r"^[0-9A-Za-z][0-9A-Za-z._:-]{0,63}$"
# What JavaScript and 64 bits hold exactly, and no leading zero, which a number would lose.
_WHOLE_NUMBER = re.compile(r"0|[1-9][0-9]{0,14}")
_DATE_AND_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:.+")


def clock() -> datetime:
    return datetime.now(UTC)


def read_time(text: str) -> datetime:
    """Return the moment that an ISO 8601 date and time names, in UTC.

    Raises:
        ValueError: it is none.
        OverflowError: its UTC day lies outside the years 1 to 9999.
    """
    if not _DATE_AND_TIME.fullmatch(text):
        raise ValueError("not a date and a time")
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _time(value: object) -> datetime:
    # pydantic's own reader takes numbers, and text of digits, as seconds since 1970.
    if isinstance(value, str):
        try:
            return read_time(value.strip())
        except (ValueError, OverflowError):
            pass
    raise PydanticCustomError(
        "date_format", "Input should be an existing date and time in ISO 8601 (2024-01-31T12:00:00Z)"
    )


def _possible_time(moment: datetime) -> datetime:
    if moment < EARLIEST:
        raise PydanticCustomError("time_too_early", "No delivery was before 2000-01-01; set the device's clock")
    # One location from the future would be an order's newest until then.
    if moment > clock() + MOST_AHEAD:
        raise PydanticCustomError(
            "time_in_future", "A location lies at most a day ahead of our clock; set the device's clock"
        )
    return moment


def _identifier(value: object) -> object:
    """Whole numbers are what the first apps sent; 43 and "43" are one order."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _number(value: object) -> object:
    if isinstance(value, bool):
        raise PydanticCustomError("float_type", "Input should be a valid number")
    return value


def _has_fix(longitude: float, info: ValidationInfo) -> float:
    if longitude == 0 and info.data.get("latitude") == 0:
        raise PydanticCustomError(
            "no_fix", "0, 0 is what a device without a position sends; send none until it has one"
        )
    return longitude


Identifier = Annotated[
    str,
    BeforeValidator(_identifier),
    WithJsonSchema(
        {"anyOf": [{"type": "string", "pattern": _ID_PATTERN}, {"type": "integer", "minimum": 0}]}, mode="validation"
    ),
]
Timestamp = Annotated[
    datetime,
    BeforeValidator(_time),
    AfterValidator(_possible_time),
    WithJsonSchema(
        {
            "type": "string",
            "description": "when the deliverer was there: ISO 8601, UTC where no zone is given; "
            "from 2000-01-01 on, at most a day ahead",
            "examples": ["2024-01-31T12:00:00Z"],
        },
        mode="validation",
    ),
]
Degrees = Annotated[float, BeforeValidator(_number)]


class Location(BaseModel):
    """Where the deliverer of an order was at one moment."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)

    order_id: Identifier = Field(pattern=_ID_PATTERN)
    deliverer_id: Identifier = Field(pattern=_ID_PATTERN)
    delivery_state: State
    timestamp: Timestamp
    latitude: Degrees = Field(ge=-90, le=90, allow_inf_nan=False, description="degrees north, WGS 84")
    longitude: Annotated[Degrees, AfterValidator(_has_fix)] = Field(
        ge=-180, le=180, allow_inf_nan=False, description="degrees east, WGS 84"
    )


class StoredLocation(BaseModel):
    """A location with its step, 0 for start to 2 for arrived: of two at one moment the one further on is the newer."""

    model_config = ConfigDict(frozen=True)

    order_id: str
    deliverer_id: str
    delivery_state: State
    step: int
    timestamp: datetime
    latitude: float
    longitude: float


def transform(location: Location) -> StoredLocation:
    """Return the stored form: the location plus `step`."""
    return StoredLocation(**location.__dict__, step=STEPS.index(location.delivery_state))


def track_of(locations: Iterable[Mapping[str, Any]], *, complete: bool = True) -> dict[str, Any]:
    """Return the track of an order: its locations in order of their own time, and what in them cannot be.

    The order is in the state of its newest location, of two at one moment the one further on. An order only goes on,
    from start over on_the_way to arrived; a location that says otherwise is kept and named, since by the time it comes
    nobody knows what has yet to come. Whatever the order and repetition of the locations, the track is the same.

    Args:
        locations: in their stored form, all of one order.
        complete: whether these are all; if not, the first of them need not be the start.
    """
    found = sorted({_place(location): location for location in locations}.items())
    track = [shown(location) for _, location in found]
    return {
        "state": track[-1]["delivery_state"] if track else None,
        "count": len(track),
        "complete": complete,
        "anomalies": _anomalies(track, complete=complete),
        "locations": track,
    }


def _place(location: Mapping[str, Any]) -> tuple[Any, ...]:
    moment = datetime.fromisoformat(location["timestamp"])
    return moment, location["step"], location["deliverer_id"], location["latitude"], location["longitude"]


def _anomalies(track: Sequence[Mapping[str, Any]], *, complete: bool) -> list[dict[str, Any]]:
    """Return {code, timestamp, message} for each location that contradicts those before it."""
    anomalies = []

    def note(code: str, location: Mapping[str, Any], message: str) -> None:
        anomalies.append({"code": code, "timestamp": location["timestamp"], "message": message})

    if complete and track and track[0]["delivery_state"] != "start":
        note("no_start", track[0], f"The first location is {track[0]['delivery_state']}, not start.")
    reached = 0
    for before, location in pairwise(track):
        reached = max(reached, STEPS.index(before["delivery_state"]))
        if STEPS.index(location["delivery_state"]) < reached:
            note("goes_back", location, f"It is {location['delivery_state']} after it was {STEPS[reached]}.")
        if location["deliverer_id"] != before["deliverer_id"]:
            note("other_deliverer", location, "Another deliverer has it than at the location before.")
    return anomalies


def shown(location: Mapping[str, Any]) -> dict[str, Any]:
    """Return a location as the apps sent it: ids that are whole numbers as numbers, no `step`."""
    return {
        name: int(value) if name.endswith("_id") and _WHOLE_NUMBER.fullmatch(value) else value
        for name, value in location.items()
        if name in Location.model_fields
    }


class OneOrder(BaseModel):
    """Which order is asked for."""

    order_id: str = Field(pattern=_ID_PATTERN, description="of the order")


class Recent(BaseModel):
    """Which orders are live."""

    minutes: int | None = Field(None, ge=1, le=527_040, description="heard of in the last so many minutes only")


def last_of(found: dict[str, Any] | None, _question: Question) -> dict[str, Any]:
    """Return {data: [the newest location]}, or an empty list where the order is not known."""
    return {"data": [shown(found)] if found else []}


def live(answers: dict[str, dict[str, Any]], question: Question) -> dict[str, Any]:
    """Return {orders: {state: how many}, data: newest location of each order that has not arrived}, newest first."""
    minutes = question.parameters.minutes
    since = EARLIEST if minutes is None else question.now - timedelta(minutes=minutes)
    found = [one for one in answers["orders"]["data"].values() if datetime.fromisoformat(one["at"]) >= since]
    found.sort(key=lambda one: (one["at"], one["order_id"]), reverse=True)
    counts = Counter(one["delivery_state"] for one in found)
    return {
        "orders": {state: counts[state] for state in STEPS},
        "data": [shown(one) for one in found if one["delivery_state"] != "arrived"],
    }


def track(documents: list[dict[str, Any]], question: Question) -> dict[str, Any]:
    """Return an order's track, or a page of it, the newest page first."""
    asked = question.parameters
    return track_of(documents, complete=asked.page == 1 and len(documents) < asked.per_page)


_AWAY: Final = ErrorShape(on="5xx", status=500, shape=lambda _: {"detail": "Database not responding"})
_NO_JSON: Final = ErrorShape(
    on="malformed_json", status=400, shape=lambda _: {"status": "ERROR", "message": "Invalid JSON"}
)

# First the step: where two locations are of one moment, the greater text is the newer.
_NEWEST: Final = ("step", "order_id", "deliverer_id", "delivery_state", "timestamp", "latitude", "longitude")

_EXAMPLE: Final[dict[str, Any]] = {
    "order_id": 43,
    "deliverer_id": 7,
    "delivery_state": "on_the_way",
    "timestamp": "2024-01-31T12:00:00Z",
    "latitude": -10.9393,
    "longitude": -37.0627,
}

deliveries = Pipeline(
    name="deliveries",
    description="Locations of deliverers with their orders",
    accepts=Location,
    yields=StoredLocation,
    transform=transform,
    # All of it: by order and time alone, which of two places wins would depend on which came first.
    key=("order_id", "deliverer_id", "timestamp", "delivery_state", "latitude", "longitude"),
    metrics=[
        Latest("orders", by="order_id", at="timestamp", of=_NEWEST),
        Latest("deliverers", by="deliverer_id", at="timestamp", of=_NEWEST),
        Count("states", by="delivery_state"),
        Count("locations_by_order", by="order_id"),
        Trend("by_day", every="1d", at="timestamp"),
        Trend("per_minute", every="1m"),
    ],
    views=[
        Intake(
            path="/v1/deliverer_location/",
            status=200,
            text=True,
            shape=lambda _: {"status": "OK"},
            errors=[_NO_JSON],
            summary="Send a location",
        ),
        Lookup(
            path="/v1/deliverer_location/last/{order_id}",
            metric="orders",
            key=("order_id",),
            asks=OneOrder,
            shape=last_of,
            errors=[_AWAY],
            summary="Newest location of an order, by its own time",
        ),
        Lookup(
            path="/v1/deliverer_location/last/",
            metric="orders",
            key=("order_id",),
            asks=OneOrder,
            shape=last_of,
            errors=[_AWAY],
            summary="The same, with the order in the query",
        ),
        Listing(
            path="/v1/deliverer_location/track/{order_id}",
            where=("order_id",),
            sort="-timestamp",
            limit=1000,
            per_page=1000,
            asks=OneOrder,
            shape=track,
            errors=[_AWAY],
            summary="Where an order has been, and what in its track cannot be",
        ),
        Report(
            path="/v1/deliverer_location/live",
            metrics=("orders",),
            asks=Recent,
            shape=live,
            errors=[_AWAY],
            summary="Orders by state, and where those are that have not arrived",
        ),
    ],
    example=_EXAMPLE,
)
