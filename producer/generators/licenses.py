"""Made-up licences in the form of the city's API: some are renewed, expire or are given back as time goes on."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Final

Document = dict[str, Any]

START: Final = datetime(2026, 1, 5, 9, 0, tzinfo=UTC).timestamp()

_FIRST_NUMBER: Final = 9_000_001
# Of a licence that is there already, instead of a new one.
_CHANGED_SHARE: Final = 0.2
_REMEMBERED: Final = 2000
_TERM: Final = timedelta(days=730)

_CATEGORIES: Final = (
    *("Home Improvement Contractor", "Home Improvement Contractor", "Tobacco Retail Dealer", "Tobacco Retail Dealer"),
    *("Laundries", "Electronics Store", "Garage", "Sidewalk Cafe", "Secondhand Dealer - General", "Pedicab Driver"),
)
# Name, ZIP code, share of the licences, and the middle of the borough.
_BOROUGHS: Final = (
    *(("Brooklyn", "11231", 40.65, -73.95),) * 3,
    *(("Queens", "11373", 40.73, -73.82),) * 3,
    *(("Manhattan", "10013", 40.76, -73.98),) * 2,
    ("Bronx", "10466", 40.85, -73.87),
    ("Staten Island", "10301", 40.60, -74.12),
)
_WORDS: Final = ("CORNER", "HARBOUR", "MAPLE", "UNION", "SILVER", "GRANITE", "LANTERN", "RIVERSIDE")
_KINDS: Final = ("SUPPLY", "SERVICES", "DELI", "MARKET", "CONTRACTING", "WASH & FOLD")
_STREETS: Final = ("MAIN ST", "OAK AVE", "3 AVENUE", "COURT ST", "GRAND BLVD")


def documents(random: Random, start: float) -> Iterator[Document]:
    """Yield licences and newer versions of them, each with the time of its change, some minutes apart."""
    draw = random.random
    moment = datetime.fromtimestamp(start, UTC)
    known: list[Document] = []
    number = _FIRST_NUMBER
    while True:
        if known and draw() < _CHANGED_SHARE:
            place = int(draw() * len(known))
            found = known[place] = _changed(known[place], moment, draw())
        else:
            found = _new(number, moment, random)
            number += 1
            if len(known) < _REMEMBERED:
                known.append(found)
            else:
                known[number % _REMEMBERED] = found
        yield found
        moment += timedelta(minutes=1 + int(draw() * 90))


def spoil(document: Document, random: Random) -> Document:
    """Return the row with a value that cannot be meant."""
    return {**document, **random.choice(_FAULTS)}


_FAULTS: Final[tuple[Document, ...]] = (
    {"license_nbr": None},
    {"license_nbr": 9000001},
    {"license_creation_date": "31/12/2025"},
    {"license_creation_date": 1735689600},
    {"lic_expir_dd": "2026-02-30T00:00:00.000"},
    {"latitude": "north"},
    {"longitude": "-200.5"},
    {"industry": "Another"},
)


def _new(number: int, moment: datetime, random: Random) -> Document:
    draw = random.random
    borough, zip_code, latitude, longitude = random.choice(_BOROUGHS)
    business = 1_000_000 + int(draw() * draw() * 900_000)
    found = {
        ":updated_at": _time(moment),
        "license_nbr": f"{number}-DCWP",
        "license_type": "Premises",
        "license_status": "Active",
        "license_creation_date": _day(moment),
        "lic_expir_dd": _day(moment + _TERM),
        "business_unique_id": f"BA-{business}-{moment.year}",
        "business_name": f"{random.choice(_WORDS)} {random.choice(_KINDS)} {random.choice(('INC.', 'LLC', 'CORP.'))}",
        "business_category": random.choice(_CATEGORIES),
    }
    # As in the city's data, some are outside of it, and some could not be placed.
    where = draw()
    if where < 0.1:
        return {**found, "address_city": "YONKERS", "address_state": "NY", "address_zip": "10701"}
    found |= {
        "address_building": str(1 + int(draw() * 999)),
        "address_street_name": random.choice(_STREETS),
        "address_city": borough.upper(),
        "address_state": "NY",
        "address_zip": zip_code,
        "address_borough": borough,
    }
    if where > 0.25:
        found |= {
            "latitude": f"{latitude + (draw() - 0.5) / 10:.6f}",
            "longitude": f"{longitude + (draw() - 0.5) / 10:.6f}",
        }
    return found


def _changed(found: Document, moment: datetime, draw: float) -> Document:
    """Return the next version: most are renewed, some expire or are given back."""
    if draw < 0.6:
        more = {"license_status": "Active", "lic_expir_dd": _day(moment + _TERM)}
    elif draw < 0.85:
        more = {"license_status": "Expired"}
    else:
        more = {"license_status": "Surrendered" if draw < 0.97 else "Revoked"}
    return {**found, **more, ":updated_at": _time(moment)}


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d}T00:00:00.000"


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%S}.000Z"
