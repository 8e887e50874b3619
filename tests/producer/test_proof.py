"""The proof: what is lost, doubled or on its way is found, and only closed books are called balanced."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from headrace.errors import UnavailableError
from producer.proof import Books, Proof
from producer.prove import Ledger, Stores, UniqueIds, prove
from tests.producer.stand_in import FakeStore

IDS = [uuid.uuid4().bytes for _ in range(100)]


def books_of(accepted: int, *, stored: int | None = None, dead: int = 0, in_flight: int = 0) -> Books:
    settled = accepted - dead - in_flight if stored is None else stored
    return Books(accepted, {"documents": settled, "facts": settled}, dead, 0, in_flight)


async def proof_of(
    *,
    documents: Sequence[bytes] = IDS,
    facts: Sequence[bytes] = IDS,
    dead: Sequence[bytes] = (),
    accepted: Sequence[bytes] = IDS,
    books: Books | None = None,
    unknown: int = 0,
    by_ids: bool = True,
) -> Proof:
    current = books or books_of(len(accepted), dead=len(set(dead)))

    async def same() -> Books:
        return current

    return await prove(
        len(accepted),
        unknown=unknown,
        ledger=Ledger(same, Books()),
        stores=stores(documents, facts, dead) if by_ids else None,
        read_ids=lambda: [accepted[:37], accepted[37:]],
        settle_seconds=0,
    )


def stores(documents: Sequence[bytes], facts: Sequence[bytes], dead: Sequence[bytes] = ()) -> Stores:
    return Stores([FakeStore("documents", documents), FakeStore("facts", facts)], FakeStore("dead", dead))


async def test_all_stored_once_balances() -> None:
    proof = await proof_of()

    assert (proof.level, proof.stored, proof.lost, proof.duplicated) == ("ids", 100, 0, 0)
    assert proof.stored_by == {"documents": 100, "facts": 100}
    assert proof.balanced
    assert proof.settled


async def test_a_document_that_one_store_dropped_is_lost_and_named() -> None:
    proof = await proof_of(facts=IDS[1:])

    assert (proof.stored, proof.lost) == (99, 1)
    assert proof.lost_examples == [str(uuid.UUID(bytes=IDS[0]))]
    assert not proof.balanced


async def test_a_document_that_is_there_twice_is_duplicated() -> None:
    proof = await proof_of(documents=[*IDS, IDS[5]])

    assert (proof.lost, proof.duplicated) == (0, 1)
    assert not proof.balanced


async def test_a_dead_document_is_accounted_for_however_many_stages_refused_it() -> None:
    proof = await proof_of(documents=IDS[2:], facts=IDS[3:], dead=[IDS[0], IDS[0], IDS[1], IDS[2]])

    assert (proof.stored, proof.dead, proof.lost, proof.duplicated) == (97, 3, 0, 0)
    assert proof.balanced


async def test_a_document_both_stored_and_dead_is_duplicated() -> None:
    assert (await proof_of(dead=[IDS[0]])).duplicated == 1


async def test_one_id_for_two_documents_is_a_loss() -> None:
    proof = await proof_of(accepted=[*IDS, IDS[0]], books=books_of(100))

    assert (proof.repeated_ids, proof.lost) == (1, 1)
    assert not proof.balanced


async def test_what_is_missing_is_in_flight_only_as_far_as_the_books_know_of_it() -> None:
    proof = await proof_of(documents=IDS[3:], facts=IDS[3:], books=books_of(100, stored=97, in_flight=2))

    assert (proof.stored, proof.in_flight, proof.lost) == (97, 2, 1)
    assert not proof.settled


async def test_what_is_missing_without_a_reason_is_lost() -> None:
    books = Books(100, {"documents": 97, "facts": 97}, in_flight=3, balanced=False)
    proof = await proof_of(documents=IDS[3:], facts=IDS[3:], books=books)

    assert (proof.in_flight, proof.lost) == (0, 3)


async def test_a_ledger_that_has_accepted_less_than_was_answered_does_not_balance() -> None:
    proof = await proof_of(books=books_of(99))

    assert not proof.balanced
    assert "1 fewer" in proof.notes[0]


@pytest.mark.parametrize(
    ("accepted", "unknown", "note"), [(102, 5, "2 of the 5 documents with unknown"), (150, 5, "others send to this")]
)
async def test_more_in_the_ledger_than_was_answered_is_explained(accepted: int, unknown: int, note: str) -> None:
    proof = await proof_of(books=books_of(accepted), unknown=unknown)

    assert proof.balanced
    assert note in proof.notes[0]


@pytest.mark.parametrize(
    ("books", "lost", "duplicated"),
    [
        (books_of(100), 0, 0),
        (books_of(100, dead=10), 0, 0),
        (books_of(100, stored=98), 2, 0),
        (books_of(100, stored=103), 0, 3),
        (books_of(90), 10, 0),
        (Books(100, {"documents": 97, "facts": 99}, 0, 0, 3, balanced=True), 0, 0),
        # The ledger itself cannot say where they are.
        (Books(100, {"documents": 97, "facts": 99}, 0, 0, 3, balanced=False), 3, 0),
        # What one sink holds is not stored yet.
        (Books(100, {"documents": 100, "facts": 95}), 5, 0),
    ],
)
async def test_by_the_ledger_alone_losses_and_doubles_are_found(books: Books, lost: int, duplicated: int) -> None:
    proof = await proof_of(books=books, by_ids=False)

    assert (proof.level, proof.lost, proof.duplicated) == ("ledger", lost, duplicated)
    assert proof.balanced is (lost == 0 and duplicated == 0)


async def test_nothing_is_proven_where_nobody_can_be_asked() -> None:
    proof = await prove(5, unknown=0, ledger=None, stores=None, read_ids=list, settle_seconds=0)

    assert (proof.level, proof.stored, proof.lost, proof.balanced) == ("none", None, None, False)


@pytest.mark.parametrize("asked", ["away", "old"])
async def test_books_that_are_not_counted_in_time_are_not_compared_and_that_is_said(asked: str) -> None:
    async def counting() -> Books:
        if asked == "away":
            raise UnavailableError("The books are being counted.", code="ledger_pending")
        return replace(books_of(7), at="2026-01-01T00:00:00Z", asked_at="2026-01-01T00:00:01Z")

    proof = await prove(
        len(IDS),
        unknown=0,
        ledger=Ledger(counting, Books()),
        stores=stores(IDS, IDS),
        read_ids=lambda: [IDS],
        settle_seconds=0,
    )

    assert (proof.level, proof.stored, proof.balanced) == ("ids", 100, True)
    assert "not counted in time" in proof.notes[0]


async def test_books_of_a_count_that_began_before_they_were_asked_for_prove_nothing() -> None:
    counts = [
        replace(books_of(100), at="2026-01-01T00:00:00Z"),
        replace(books_of(100, dead=3), at="2026-01-01T00:00:02Z"),
    ]
    answers = iter([counts[0], counts[0], counts[1]])

    async def read() -> Books:
        return replace(next(answers), asked_at="2026-01-01T00:00:01Z")

    proof = await prove(100, unknown=0, ledger=Ledger(read, Books()), stores=None, read_ids=list, settle_seconds=60)

    assert (proof.level, proof.stored, proof.dead) == ("ledger", 97, 3)


async def test_a_ledger_that_is_not_counted_in_time_proves_nothing() -> None:
    old = replace(books_of(100), at="2026-01-01T00:00:00.5Z", asked_at="2026-01-01T00:00:01Z")

    proof = await proof_of(books=old, by_ids=False)

    assert (proof.level, proof.lost) == ("none", None)
    assert "not counted in time" in proof.notes[0]


async def test_a_document_that_never_arrives_is_lost_by_books_that_are_counted_again_and_again() -> None:
    times = itertools.count()

    async def still_missing() -> Books:
        return replace(books_of(100, in_flight=1), at=f"2026-01-01T00:00:{next(times):02}Z")

    proof = await prove(
        100, unknown=0, ledger=Ledger(still_missing, Books()), stores=None, read_ids=list, settle_seconds=0.1
    )

    assert (proof.level, proof.in_flight, proof.settled) == ("ledger", 1, False)


async def test_documents_still_on_their_way_are_waited_for_as_long_as_something_moves() -> None:
    class Slow(FakeStore):
        async def rows(self, ids: Sequence[bytes]) -> list[bytes]:
            self.held = IDS[: len(self.held) + 20]
            return await super().rows(ids)

    proof = await prove(
        100,
        unknown=0,
        ledger=None,
        stores=Stores([FakeStore("documents", IDS), Slow("facts")], FakeStore("dead")),
        read_ids=lambda: [IDS],
        settle_seconds=20,
    )

    assert (proof.stored, proof.lost, proof.settled) == (100, 0, True)


async def test_the_ledger_is_read_again_until_its_books_are_closed() -> None:
    answers = [books_of(100, in_flight=in_flight) for in_flight in (0, 10, 40)]

    async def read() -> Books:
        return answers.pop() if len(answers) > 1 else answers[0]

    proof = await prove(
        100, unknown=0, ledger=Ledger(read, Books()), stores=None, read_ids=lambda: [IDS], settle_seconds=20
    )

    assert (proof.level, proof.stored, proof.in_flight, proof.balanced) == ("ledger", 100, 0, True)


async def test_a_store_that_is_away_for_a_moment_is_asked_again() -> None:
    class Restarting(FakeStore):
        asked = 0

        async def rows(self, ids: Sequence[bytes]) -> list[bytes]:
            self.asked += 1
            if self.asked % 2:
                raise UnavailableError("It restarts.")
            return await super().rows(ids)

    proof = await prove(
        100,
        unknown=0,
        ledger=None,
        stores=Stores([Restarting("documents", IDS)], FakeStore("dead")),
        read_ids=lambda: [IDS],
        settle_seconds=20,
    )

    assert proof.balanced


def test_repeated_ids_are_found_in_whatever_portions_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    # So small a memory that the ids take several passes.
    monkeypatch.setattr("producer.prove._MOST_IDS_IN_MEMORY", 30)
    ids = UniqueIds(lambda: [[*IDS[:60], IDS[3]], [*IDS[60:], IDS[3], IDS[70]]], 103)

    found = [identity for portion in ids for identity in portion]

    assert sorted(found) == sorted(IDS)
    assert ids.repeated == 3
