"""The ledger: per pipeline, what became of everything that was accepted. Pure.

Every document of an accepted block ends, for each sink, as exactly one of these; what has not yet is missing:

    accepted = stored + duplicates + refused + missing

- accepted: by the journal, which reads the headers of raw blocks and knows nothing of the stages.
- stored: rows of the sink's store; an id stands there once.
- duplicates: came again with the same bytes under an id that the sink had.
- refused: dead letters of refine, which no sink gets to see, and of the sink itself, other bytes under an id
  that it had among them.

A dead letter that is given back is refused no more, and how that is booked depends on who had refused it. Refine's
goes into RAW as part of a new block: it stays refused in the old one and is accepted anew with the new one, so
that it is taken off what was accepted. Until the journal has the new block it is on its way. A sink's goes to that sink
alone, as the document of the block that it came in: it is missing until it is stored or refused once more.

Only the facts sink writes its duplicates down. The documents sink meets the same documents, so that for both
duplicates and conflicts together are whatever came under an id that was there; but which of two bodies came
first may differ. What the documents sink refuses for a reason of its own is no duplicate, though its id may be
known to the facts sink (`known`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from analytics.consumers import Lag
from headrace.storage.postgres import Books

SINKS: Final = ("documents", "facts")


_GIVEN_BACK: Final = ("replaying", "replayed")


@dataclass(frozen=True, slots=True)
class SinkLine:
    """One sink's part of a pipeline's line.

    Attributes:
        given_back: dead letters that the journal has in a new block.
        on_their_way: letters of refine that are given back, and that the journal has not seen yet.
        unseen: those of them that are in the stream for certain.
        excused: of what is missing, letters of the sink that may not be in the stream again yet.
    """

    stored: int
    duplicates: int
    dead: int
    discarded: int
    given_back: int
    missing: int
    on_their_way: int = 0
    unseen: int = 0
    excused: int = 0


def sink_line(sink: str, books: Books, stored: int) -> SinkLine:
    """Return how a sink's documents ended."""
    refine = [one for one in books.letters if one.stage == "refine"]
    own = [one for one in books.letters if one.stage == sink]
    refused = [*refine, *(one for one in own if one.state not in _GIVEN_BACK)]
    known = sum(one.count for one in own if one.known and one.state not in _GIVEN_BACK)
    duplicates = books.repeats + _conflicts(books, "facts") - known - _conflicts(books, sink)
    on_their_way = [one for one in refine if one.state in _GIVEN_BACK and not one.back]
    return SinkLine(
        stored=stored,
        duplicates=duplicates,
        dead=sum(one.count for one in refused if one.state == "dead"),
        discarded=sum(one.count for one in refused if one.state == "discarded"),
        given_back=sum(one.count for one in refine if one.state in _GIVEN_BACK and one.back),
        missing=books.accepted - stored - duplicates - sum(one.count for one in refused),
        on_their_way=sum(one.count for one in on_their_way),
        unseen=sum(one.count for one in on_their_way if one.state == "replayed"),
        excused=sum(one.count for one in own if one.state == "replaying"),
    )


def _conflicts(books: Books, sink: str) -> int:
    return sum(
        one.count for one in books.letters if one.conflict and one.stage == sink and one.state not in _GIVEN_BACK
    )


def line(books: Books, documents_stored: int, lags: Mapping[str, Lag]) -> dict[str, Any]:
    """Return a pipeline's line of the ledger.

    What both sinks share (dead, discarded, duplicates, in_flight) is told of the sink that is further behind, so
    that the line adds up: accepted = its stored + duplicates + dead + discarded + in_flight. A letter that was
    given back is accepted anew with its new block, so `accepted` counts it once.

    Args:
        lags: how far the stages are.
    """
    stored = {"documents": documents_stored, "facts": books.stored}
    lines = {sink: sink_line(sink, books, stored[sink]) for sink in SINKS}
    worst = max(lines.values(), key=lambda one: (one.missing, -one.stored))
    return {
        "accepted": books.accepted - worst.given_back,
        "stored": stored,
        "dead": worst.dead,
        "discarded": worst.discarded,
        "in_flight": max(0, worst.missing) + worst.on_their_way,
        "duplicates": max(0, worst.duplicates),
        "balanced": all(_explained(one, lags) for one in lines.values()),
    }


def _explained(one: SinkLine, lags: Mapping[str, Lag]) -> bool:
    """Return whether what is missing can be on its way, or what is too much can be waiting for the journal."""
    if one.missing < 0 or one.unseen:
        return lags["journal"].busy
    return one.missing <= one.excused or any(lag.busy for lag in lags.values())
