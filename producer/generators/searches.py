"""Made-up hotel searches with the offers of one to six advertisers; a few hotels and users are searched most."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from random import Random
from typing import Any, Final
from uuid import UUID

Document = dict[str, Any]

START: Final = datetime(2021, 5, 5, 14, 0, tzinfo=UTC).timestamp()

_USERS: Final = 2000
_HOTELS: Final = 300
_FIRST_HOTEL: Final = 6000
# Offers are drawn from a stock, since making twenty for every document would be most of the work.
_OFFER_SETS: Final = 1024
_ADVERTISERS: Final = ("Roomvine", "stayharbour.example", "Pillowpost", "Nightjar Travel", "Inn & Out", "Destinara")


def documents(random: Random, start: float, users: int = _USERS) -> Iterator[Document]:
    """Yield searches, a few a second by their own time."""
    draw = random.random
    names = [str(UUID(int=random.getrandbits(128), version=4)) for _ in range(users)]
    offer_sets = [_offers(random) for _ in range(_OFFER_SETS)]
    moment = start
    while True:
        user, hotel = draw(), draw()
        yield {
            "user_id": names[int(user * user * users)],
            "hotel_id": str(_FIRST_HOTEL + int(hotel * hotel * _HOTELS)),
            "search_timestamp": moment,
            "hotel_advertisers": offer_sets[int(draw() * _OFFER_SETS)],
        }
        moment = round(moment + draw() * 0.5, 3)


def stamp(document: Document, moment: float) -> Document:
    return {**document, "search_timestamp": round(moment, 3)}


def user_of(document: Document) -> str:
    return str(document.get("user_id"))


def spoil(document: Document, random: Random) -> Document:
    """Return the search with a missing, null or impossible value."""
    fault = random.choice(_FAULTS)
    return {**document, **fault}


_FAULTS: Final[tuple[Document, ...]] = (
    {"user_id": None},
    {"user_id": "nobody"},
    {"hotel_id": ""},
    {"search_timestamp": "yesterday"},
    {"hotel_advertisers": {}},
    {"hotel_advertisers": {"Roomvine": [{"eurocents": -1, "breakfast": False}]}},
    {"hotel_advertisers": {"Roomvine": [{"eurocents": 8900, "breakfast": "buffet"}]}},
)


def _offers(random: Random) -> dict[str, list[Document]]:
    return {
        name: [
            {"eurocents": random.randrange(3500, 40000), "breakfast": random.choice((True, False, False, None))}
            for _ in range(random.randint(1, 4))
        ]
        for name in random.sample(_ADVERTISERS, random.randint(1, len(_ADVERTISERS)))
    }
