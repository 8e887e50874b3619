"""Made-up invoice lines in the form of the Online Retail set: most of the trade in one country, some cancellations."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import product
from random import Random
from typing import Any, Final

Document = dict[str, Any]

START: Final = datetime(2010, 12, 1, 8, 26, tzinfo=UTC).timestamp()

_FIRST_INVOICE: Final = 700_001
_CUSTOMERS: Final = 4000
_CANCELLED_SHARE: Final = 0.02

_SIZES = ("SMALL", "LARGE", "TALL", "ROUND", "FOLDING")
_MAKES = ("PAPER", "GLASS", "TIN", "WICKER", "FELT", "OAK")
_THINGS = ("LANTERN", "TEAPOT", "BUNTING", "PICTURE FRAME", "BIRD FEEDER", "CAKE STAND", "DOORMAT", "CLOCK")
_PRODUCTS: Final = tuple(
    (f"{90_000 + number}{'' if number % 3 else 'A'}", " ".join(words), (85 + 37 * (number % 29)) / 100)
    for number, words in enumerate(product(_SIZES, _MAKES, _THINGS))
)
_QUANTITIES: Final = (1, 1, 1, 2, 2, 3, 4, 6, 6, 8, 10, 12, 12, 24, 24, 48)
_ABROAD: Final = ("Germany", "Germany", "France", "France", "EIRE", "Norway", "Spain", "Italy")
_COUNTRIES: Final = ("United Kingdom",) * 24 + _ABROAD


def documents(random: Random, start: float, users: int = _CUSTOMERS) -> Iterator[Document]:
    """Yield the lines of one invoice after another, each with 1 to 12 lines, some minutes apart."""
    draw = random.random
    moment = datetime.fromtimestamp(start, UTC)
    number = _FIRST_INVOICE
    while True:
        cancelled = draw() < _CANCELLED_SHARE
        invoice_no = f"C{number}" if cancelled else str(number)
        date = _date(moment)
        customer = int(draw() * users)
        customer_id = str(12_000 + customer)
        # A customer stays in one country.
        country = _COUNTRIES[customer % len(_COUNTRIES)]
        for _ in range(1 + int(draw() * 12)):
            # Squared, so that some products sell much more than others.
            rank = draw()
            stock_code, description, unit_price = _PRODUCTS[int(rank * rank * len(_PRODUCTS))]
            quantity = _QUANTITIES[int(draw() * len(_QUANTITIES))]
            yield {
                "InvoiceNo": invoice_no,
                "StockCode": stock_code,
                "Description": description,
                "Quantity": -quantity if cancelled else quantity,
                "InvoiceDate": date,
                "UnitPrice": unit_price,
                "CustomerID": customer_id,
                "Country": country,
            }
        number += 1
        moment += timedelta(minutes=1 + int(draw() * 9))


def stamp(document: Document, moment: float) -> Document:
    return {**document, "InvoiceDate": _date(datetime.fromtimestamp(moment, UTC))}


def user_of(document: Document) -> str:
    return str(document.get("CustomerID"))


def _date(moment: datetime) -> str:
    return f"{moment.day}/{moment.month}/{moment.year} {moment:%H:%M}"


def spoil(document: Document, random: Random) -> Document:
    """Return the line with a null in most cases, as in the real set, or with a value of the wrong kind."""
    fault = random.choice(_FAULTS)
    return {**document, **fault}


_FAULTS: Final[tuple[Document, ...]] = (
    {"CustomerID": None},
    {"CustomerID": None},
    {"CustomerID": None},
    {"CustomerID": None, "Description": None},
    {"InvoiceDate": "12/31/2010 08:26"},
    {"Quantity": "six"},
    {"UnitPrice": -1},
    {"Colour": "red"},
)
