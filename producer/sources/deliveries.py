"""Files of deliveries: GPS tracks and orders of a food service in the form of the public data sets, or locations as
they are stored.

Tracks (`latitude,longitude,track_id,time`) are orders: the earliest point starts one, the latest arrives. Who drove
says `id_android` of the table beside it, whose name has `tracks` where this one has `trackspoints`.

Orders (`ID,Delivery_person_ID,Restaurant_latitude,…`) say where and when each was picked up, which is its start. When
it arrived they do not say, so where it went is left out rather than given a made-up time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

from producer.formats import Row, SourceError, read_file
from producer.generators.deliveries import state

Document = dict[str, Any]

_TRACK_COLUMNS: Final = frozenset({"latitude", "longitude", "track_id", "time"})
_ORDER_COLUMNS: Final = frozenset({"ID", "Delivery_person_ID", "Restaurant_latitude", "Time_Order_picked"})
_FIRST_ROWS: Final = 100
_POINTS_NAME: Final = "trackspoints"
_TRACKS_NAME: Final = "tracks"


class _Point(NamedTuple):
    """A point in the order of its track; texts, as they stand in the file."""

    time: str
    latitude: str
    longitude: str


def rows(path: Path) -> Iterator[Row]:
    """Yield one row per location.

    Raises:
        SourceError: there is no such file, or a table has no usable header.
    """
    columns = _columns(path)
    if columns >= _TRACK_COLUMNS:
        return _points(path)
    if columns >= _ORDER_COLUMNS:
        return (row._replace(document=_picked_up(row.document)) if row.document else row for row in read_file(path))
    return read_file(path)


def tracks(path: Path) -> dict[str, list[tuple[float, float]]]:
    """Return the way of each track of a file, in order of time; what is no place on earth is left out.

    Raises:
        SourceError: it is no file of tracks, or no track in it has two points.
    """
    if not _columns(path) >= _TRACK_COLUMNS:
        raise SourceError(f"{path}: it has no tracks; its columns must be {', '.join(sorted(_TRACK_COLUMNS))}.")
    found: dict[str, list[tuple[str, float, float]]] = {}
    for row in read_file(path):
        place = row.document and _place(row.document)
        if place:
            track, time, latitude, longitude = place
            found.setdefault(track, []).append((time, latitude, longitude))
    ways = {
        track: [(latitude, longitude) for _, latitude, longitude in sorted(points)]
        for track, points in found.items()
        if len(points) > 1
    }
    if not ways:
        raise SourceError(f"{path}: none of its tracks has two points.")
    return ways


def _columns(path: Path) -> set[str]:
    """Return the names that the first rows of a table use; a row leaves out what is empty. JSON has no columns."""
    first = [row.document for row in islice(read_file(path), _FIRST_ROWS) if row.document]
    if not all(isinstance(value, str) for found in first for value in found.values()):
        return set()
    return {name for found in first for name in found}


def _points(path: Path) -> Iterator[Row]:
    deliverers = _deliverers(path)
    ends = _ends(path)
    for row in read_file(path):
        if row.document is None:
            yield row
            continue
        found, track = row.document, row.document.get("track_id", "")
        document = {
            "order_id": track,
            "deliverer_id": f"track-{track}" if deliverers is None else deliverers.get(track),
            "delivery_state": _state(_point(found), *ends[track]),
            "timestamp": found.get("time"),
            "latitude": found.get("latitude"),
            "longitude": found.get("longitude"),
        }
        yield row._replace(document={name: value for name, value in document.items() if value})


def _deliverers(path: Path) -> Mapping[str, str] | None:
    """Return who drove each track, or None where no file says so; each track then has a deliverer of its own."""
    beside = path.with_name(path.name.replace(_POINTS_NAME, _TRACKS_NAME))
    if beside == path or not beside.exists():
        return None
    documents = (row.document for row in read_file(beside) if row.document)
    return {found["id"]: found.get("id_android", "") for found in documents if "id" in found}


def _ends(path: Path) -> dict[str, tuple[_Point, _Point]]:
    """Return the earliest and the latest point of each track, wherever they stand in the file."""
    ends: dict[str, tuple[_Point, _Point]] = {}
    for row in read_file(path):
        if row.document:
            track, point = row.document.get("track_id", ""), _point(row.document)
            first, last = ends.get(track, (point, point))
            ends[track] = (min(first, point), max(last, point))
    return ends


def _point(found: Document) -> _Point:
    return _Point(found.get("time", ""), found.get("latitude", ""), found.get("longitude", ""))


def _state(point: _Point, first: _Point, last: _Point) -> str:
    if point == first:
        return state(0, 2)
    return state(1, 2 if point == last else 3)


def _place(found: Document) -> tuple[str, str, float, float] | None:
    try:
        latitude, longitude = float(found["latitude"]), float(found["longitude"])
    except (KeyError, ValueError):
        return None
    if abs(latitude) <= 90 and abs(longitude) <= 180 and (latitude, longitude) != (0, 0):
        return found.get("track_id", ""), found.get("time", ""), latitude, longitude
    return None


def _picked_up(found: Document) -> Document:
    """Return the start of an order; what the file does not know is left out, so that the schema names it."""
    values = {name: value.strip() for name, value in found.items()}
    known = {name: value for name, value in values.items() if value != "NaN"}
    document = {
        "order_id": known.get("ID"),
        "deliverer_id": known.get("Delivery_person_ID"),
        "delivery_state": "start",
        "timestamp": _picked_at(known.get("Order_Date"), known.get("Time_Orderd"), known.get("Time_Order_picked")),
        "latitude": known.get("Restaurant_latitude"),
        "longitude": known.get("Restaurant_longitude"),
    }
    return {name: value for name, value in document.items() if value is not None}


def _picked_at(date: str | None, ordered: str | None, picked: str | None) -> str | None:
    """Return when an order was picked up: after midnight where that is earlier in the day than it was ordered."""
    if date is None or picked is None:
        return None
    try:
        # The schema says what a time without a zone means.
        moment = datetime.strptime(f"{date} {picked}", "%d-%m-%Y %H:%M:%S")  # noqa: DTZ007
    except ValueError:
        return f"{date} {picked}"
    if ordered is not None and picked < ordered:
        moment += timedelta(days=1)
    return moment.isoformat()
