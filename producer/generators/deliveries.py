"""Made-up deliveries: deliverers on their ways through one town, an order each, one location after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import count
from random import Random
from typing import Any, Final

Document = dict[str, Any]
# From the part of the way that is behind, 0.0 to 1.0, to latitude and longitude.
Way = Callable[[float], tuple[float, float]]

START: Final = datetime(2024, 1, 31, 11, 0, tzinfo=UTC).timestamp()

# Where every way begins, and how far from there it may end, in degrees; some 5 km.
_KITCHEN: Final = (-10.9472, -37.0731)
_REACH: Final = 0.045
_ON_THE_ROAD: Final = 20
_LOCATIONS: Final = 15
_BETWEEN_MILLISECONDS: Final = 25
_ORDERS: Final = 1_000_000


def documents(random: Random, start: float) -> Iterator[Document]:
    """Yield the locations of twenty deliverers in turn, who take the next order when they have arrived."""
    orders = count(random.randrange(_ORDERS) * 1000 + 1)
    # Not all at the start of their ways.
    trips = [(deliverer, next(orders), straight(random), -deliverer) for deliverer in range(1, _ON_THE_ROAD + 1)]
    millisecond = round(start * 1000)
    while True:
        for place, (deliverer, order, way, index) in enumerate(trips):
            if index < 0:
                trips[place] = (deliverer, order, way, index + 1)
                continue
            yield location(order, deliverer, way, index, _LOCATIONS, millisecond)
            millisecond += _BETWEEN_MILLISECONDS
            if index + 1 < _LOCATIONS:
                trips[place] = (deliverer, order, way, index + 1)
            else:
                trips[place] = (deliverer, next(orders), straight(random), 0)


def spoil(document: Document, random: Random) -> Document:
    """Return the location with a missing, null or impossible value."""
    fault = random.choice(_FAULTS)
    return {**document, **fault}


_FAULTS: Final[tuple[Document, ...]] = (
    {"order_id": None},
    {"deliverer_id": ""},
    {"delivery_state": "lost"},
    {"timestamp": "1970-01-01T00:00:09Z"},
    {"timestamp": "yesterday"},
    {"latitude": 91.2},
    {"longitude": -181},
    {"latitude": 0, "longitude": 0},
    {"speed": 12},
)


def location(order: int, deliverer: int, way: Way, index: int, locations: int, millisecond: int) -> Document:
    """Return the location at a place of a trip.

    Args:
        index: its place among the trip's `locations`, from 0.
        millisecond: its time since 1970.
    """
    latitude, longitude = way(index / (locations - 1) if locations > 1 else 0.0)
    second, rest = divmod(millisecond, 1000)
    return {
        "order_id": order,
        "deliverer_id": deliverer,
        "delivery_state": state(index, locations),
        "timestamp": f"{datetime.fromtimestamp(second, UTC).isoformat()[:19]}.{rest:03d}Z",
        "latitude": round(latitude, 6),
        "longitude": round(longitude, 6),
    }


def state(index: int, locations: int) -> str:
    """Return the state at a place of a trip: the first starts, the last arrives; a single one has only started."""
    if index == 0:
        return "start"
    return "arrived" if index == locations - 1 else "on_the_way"


def straight(random: Random) -> Way:
    """Return a straight way from the kitchen to somewhere around it."""
    latitude, longitude = (fixed + random.uniform(-_REACH, _REACH) for fixed in _KITCHEN)

    def way(part: float) -> tuple[float, float]:
        return (
            _KITCHEN[0] + part * (latitude - _KITCHEN[0]),
            _KITCHEN[1] + part * (longitude - _KITCHEN[1]),
        )

    return way


def along(points: Sequence[tuple[float, float]]) -> Way:
    """Return the way through points, each as far from the next in time as in the list."""

    def way(part: float) -> tuple[float, float]:
        place = part * (len(points) - 1)
        index = min(int(place), len(points) - 2)
        if index < 0:
            return points[0]
        rest = place - index
        (latitude, longitude), (next_latitude, next_longitude) = points[index], points[index + 1]
        return latitude + rest * (next_latitude - latitude), longitude + rest * (next_longitude - longitude)

    return way
