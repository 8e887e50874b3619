"""A source as a run sees it: its names, its rows from any place on, and what it has to say at the end."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from producer.formats import Row
from producer.upload import flowing


@dataclass(frozen=True, slots=True)
class Place:
    """How far a source was read: the number of the last row, and what the source calls it."""

    number: int
    key: str


Rows = Callable[[Place | None], AsyncGenerator[Row, None]]


@dataclass(slots=True)
class Source:
    """Rows to be sent.

    Attributes:
        name: for people.
        key: names it in documents' ids and checkpoints; the same for the same rows.
        rows: gives the rows after a place, or all.
        seekable: whether a later run may begin at a place.
        grows: whether rows may come after the last one, so that the place after it is worth keeping.
        endless: whether it has no end, so that stopping it is no failure.
        total: how many rows there are, where that is known.
        figures: what it knows about its reading, for the summary.
        notes: what it has to say at the end.
    """

    name: str
    key: str
    rows: Rows
    seekable: bool = False
    grows: bool = False
    endless: bool = False
    total: Callable[[], int | None] = lambda: None
    figures: Callable[[], dict[str, Any]] = dict
    notes: list[str] = field(default_factory=list)


def rows_of(make: Callable[[], Iterable[Row]]) -> Rows:
    """Return the rows of what can only be read from its start: those before the place are passed over."""

    async def rows(after: Place | None) -> AsyncGenerator[Row, None]:
        async for row in flowing(make()):
            if after is None or row.number > after.number:
                yield row

    return rows
