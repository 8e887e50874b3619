"""What became of the accepted documents, judged from what the ledger and the stores said. Pure; `prove.py` asks them.

Two levels. `ledger`: the pipeline's books by the API, after the run minus before it. `ids`: every
accepted id looked up in the stores themselves, which does not have to trust any service of ours.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

import msgspec

_MOST_EXAMPLES: Final = 10


class Books(msgspec.Struct, frozen=True):
    """One pipeline's line of the ledger.

    Attributes:
        in_flight: accepted, and in no store yet nor dead.
        balanced: False where the ledger itself cannot say why they are not.
        at, asked_at: when the count began, and when it was asked for, RFC 3339 UTC; who asks may get an older count.
    """

    accepted: int = 0
    stored: dict[str, int] = {}
    dead: int = 0
    discarded: int = 0
    in_flight: int = 0
    duplicates: int = 0
    balanced: bool = True
    at: str = ""
    asked_at: str = ""

    @property
    def on_their_way(self) -> int:
        """Return how many are in flight for a reason."""
        return self.in_flight if self.balanced else 0

    @property
    def placed(self) -> int:
        """Return how many have come to rest: in every sink, or dead."""
        return min(self.stored.values(), default=0) + self.dead + self.discarded

    @property
    def unaccounted(self) -> int:
        """Return how many accepted documents the books cannot place; below zero where they hold some twice."""
        return self.accepted - self.duplicates - self.placed - self.in_flight

    def since(self, before: Books) -> Books:
        """Return the difference; what is in flight is a level, not a sum, so it stays."""
        return Books(
            accepted=self.accepted - before.accepted,
            stored={name: number - before.stored.get(name, 0) for name, number in self.stored.items()},
            dead=self.dead - before.dead,
            discarded=self.discarded - before.discarded,
            in_flight=self.in_flight,
            duplicates=self.duplicates - before.duplicates,
            balanced=self.balanced,
            at=self.at,
            asked_at=self.asked_at,
        )


class Recent:
    """Tells books of a count that began after the first were asked for: answers until then may be of an older one."""

    def __init__(self) -> None:
        self._asked_at = ""

    def holds(self, books: Books) -> bool:
        self._asked_at = self._asked_at or books.asked_at
        return books.at >= self._asked_at


class Proof(msgspec.Struct):
    """What became of the accepted documents. Numbers are None where nobody could say them."""

    level: str  # ids, ledger or none
    accepted: int
    stored: int | None = None
    stored_by: dict[str, int] = {}
    dead: int | None = None
    in_flight: int | None = None
    lost: int | None = None
    duplicated: int | None = None
    repeated_ids: int = 0  # accepted documents that were given an id which another one had
    settled: bool = False  # nothing is on its way any more
    settle_seconds: float = 0.0  # from the end of sending until all was stored, or was given up
    balanced: bool = False  # accepted = stored + dead + in flight, none lost, none twice
    ledger: Books | None = None
    lost_examples: list[str] = []
    notes: list[str] = []


@dataclass(slots=True)
class Found:
    """What looking up ids found. `missing` are neither in every sink nor dead."""

    stored: int = 0
    stored_by: Counter[str] = field(default_factory=Counter)
    dead: int = 0
    duplicated: int = 0
    missing: list[bytes] = field(default_factory=list)

    def then(self, later: Found) -> Found:
        """Return what was found, with what `later` says of the missing ones."""
        return Found(
            self.stored + later.stored,
            self.stored_by + later.stored_by,
            self.dead + later.dead,
            self.duplicated + later.duplicated,
            later.missing,
        )


def fill_by_ids(proof: Proof, found: Found, repeated: int, books: Books | None) -> None:
    """Fill in what the stores themselves said.

    Args:
        repeated: accepted documents whose id was another one's already.
        books: since the run began, or None.
    """
    proof.level = "ids"
    proof.stored, proof.stored_by, proof.dead = found.stored, dict(found.stored_by), found.dead
    proof.duplicated = found.duplicated
    proof.repeated_ids = repeated
    # What is missing is at best on its way, and no more of it than the books know to be.
    proof.in_flight = min(len(found.missing), books.on_their_way) if books is not None else 0
    proof.lost = len(found.missing) - proof.in_flight + repeated
    proof.settled = not found.missing
    proof.balanced = proof.lost == 0 and proof.duplicated == 0
    if proof.lost:
        proof.lost_examples = [str(UUID(bytes=identity)) for identity in found.missing[:_MOST_EXAMPLES]]
    if repeated:
        proof.notes.append(f"{repeated} documents were given an id that another document had already.")
    if found.missing and books is None:
        proof.notes.append("Without the ledger nobody can say whether missing documents are still on their way.")


def fill_by_ledger(proof: Proof, books: Books) -> None:
    """Fill in what the books say of the pipeline, whoever sent to it meanwhile."""
    rest = books.unaccounted
    proof.level = "ledger"
    proof.stored, proof.stored_by = min(books.stored.values(), default=0), dict(books.stored)
    proof.dead, proof.in_flight = books.dead + books.discarded, books.on_their_way
    # What the ledger misses without a reason is lost, until somebody finds it.
    proof.lost = max(0, rest) + max(0, proof.accepted - books.accepted) + books.in_flight - books.on_their_way
    proof.duplicated = max(0, -rest)
    proof.settled = books.on_their_way == 0
    proof.balanced = proof.lost == 0 and proof.duplicated == 0


def compare(proof: Proof, books: Books, unknown: int) -> None:
    """Say where the books and the client's own count differ.

    Args:
        unknown: documents whose outcome the client does not know; the books may hold them too.
    """
    proof.ledger = books
    more = books.accepted - proof.accepted
    if more < 0:
        proof.balanced = False
        proof.notes.append(f"The ledger has accepted {-more} fewer than were answered with 202.")
    elif 0 < more <= unknown:
        proof.notes.append(f"{more} of the {unknown} documents with unknown outcome had been accepted.")
    elif more:
        proof.notes.append(f"The ledger has accepted {more} more: others send to this pipeline too.")
    if proof.settled and books.in_flight == 0 and books.unaccounted:
        proof.balanced = False
        proof.notes.append(f"The ledger's own books are off by {books.unaccounted}.")
