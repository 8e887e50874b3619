"""The books add up, whatever is sent again, refused, or still on its way."""

from __future__ import annotations

from functools import partial
from typing import Any

import asyncpg
import pytest

from analytics.books import during
from analytics.consumers import Lag
from analytics.ledger import line
from headrace.document import Block, new_id, now, raw_line
from headrace.storage.postgres import Books, Letters
from tests.analytics.system import System
from tests.waiting import eventually

IDLE = {stage: Lag(0, 0, 9) for stage in ("refine", "journal", "documents", "facts", "dead")}
BAD = {"bad": 1}


def tea(number: int = 0) -> dict[str, Any]:
    return {"product": "tea", "quantity": number}


def busy(stage: str) -> dict[str, Lag]:
    return {**IDLE, stage: Lag(3, 0, 9)}


def adds_up(line: dict[str, Any]) -> bool:
    rest = line["accepted"] - line["dead"] - line["discarded"] - line["duplicates"] - line["in_flight"]
    return bool(rest == min(line["stored"].values()))


async def test_repeats_conflicts_and_refusals_leave_the_books_balanced(system: System) -> None:
    same, other, third = new_id(), new_id(), new_id()
    await system.submit("orders", tea(1), tea(2), BAD, b'"no object"', ids=[same, other, new_id(), new_id()])
    # Again: the same bytes, other bytes; in one block, in another; twice in the same block.
    await system.submit("orders", tea(1), tea(99), tea(1), ids=[same, other, same])
    await system.submit("orders", tea(3), tea(3), tea(4), ids=[third, third, third])
    await system.submit("orders", tea(5))
    await system.work()

    await system.until("ledger", {"pipelines": {"orders": {"accepted": 11, "in_flight": 0}}})
    line = await system.line("orders")
    assert line == {
        "accepted": 11,
        "stored": {"documents": 4, "facts": 4},
        "dead": 4,
        "discarded": 0,
        "in_flight": 0,
        "duplicates": 3,
        "balanced": True,
    }
    assert (await system.line("members"))["accepted"] == 0


async def test_bodies_that_race_for_one_key_leave_the_books_balanced(system: System) -> None:
    async with system.workers():
        for number in range(10):
            document_id = new_id()
            for body in (number, -1, number, -1, number, number, number):
                await system.submit("orders", tea(body), ids=[document_id])
        await system.drained()

    await system.until("ledger", {"pipelines": {"orders": {"accepted": 70, "in_flight": 0, "balanced": True}}})
    assert adds_up(await system.line("orders"))


async def test_a_block_published_twice_counts_once(system: System) -> None:
    block = Block(new_id(), "orders", raw_line(new_id(), now(), b'"me"', b'{"product":"tea"}'), 1)
    await system.publish(block, "one")
    await system.publish(block, "two")
    await system.work()

    assert await system.line("orders") == {
        "accepted": 1,
        "stored": {"documents": 1, "facts": 1},
        "dead": 0,
        "discarded": 0,
        "in_flight": 0,
        "duplicates": 0,
        "balanced": True,
    }


async def test_what_a_stage_has_not_done_yet_is_in_flight(system: System) -> None:
    await system.submit("orders", tea(), tea(1), BAD)
    await system.work("journal")
    await system.until("ledger", {"pipelines": {"orders": {"accepted": 3, "in_flight": 3, "balanced": True}}})

    await system.work("refine", "facts", "dead")

    await system.until("ledger", {"pipelines": {"orders": {"in_flight": 2, "dead": 1, "balanced": True}}})
    ledger = await system.ask("ledger")
    assert ledger["pipelines"]["orders"]["stored"] == {"documents": 0, "facts": 2}
    assert ledger["backlog"]["documents"] == {"pending": 1, "ack_pending": 0}
    assert ledger["backlog"]["facts"] == {"pending": 0, "ack_pending": 0}


async def test_books_of_a_count_that_began_after_a_moment_hold_what_was_settled_before_it(system: System) -> None:
    for accepted in (1, 2, 3):
        await system.submit("orders", tea(accepted))
        await system.work()
        first = await system.ask("ledger")

        ledger = await eventually(lambda: system.ask("ledger"), partial(_began_after, first["asked_at"]))
        assert ledger["pipelines"]["orders"]["accepted"] == accepted


def _began_after(moment: str, ledger: dict[str, Any]) -> bool:
    return bool(ledger["at"] >= moment)


async def test_more_than_was_accepted_is_balanced_only_until_the_journal_has_caught_up(system: System) -> None:
    await system.submit("orders", tea())
    await system.work("refine", "facts", "documents")
    await system.until("ledger", {"pipelines": {"orders": {"accepted": 0, "in_flight": 0, "balanced": True}}})

    await system.work("journal")

    await system.until("ledger", {"pipelines": {"orders": {"accepted": 1, "in_flight": 0, "balanced": True}}})


async def test_a_document_that_vanished_from_a_store_is_found_missing(system: System) -> None:
    ids = await system.submit("orders", tea(), tea(1))
    await system.work()
    await system.until("ledger", {"pipelines": {"orders": {"accepted": 2, "balanced": True}}})

    connection = await asyncpg.connect(system.settings.postgres_url.get_secret_value())
    await connection.execute("DELETE FROM facts.orders WHERE id = $1", ids[0])
    await connection.close()

    await system.until("ledger", {"pipelines": {"orders": {"accepted": 2, "in_flight": 1, "balanced": False}}})


async def test_the_ledger_says_when_it_was_reconciled_last(system: System) -> None:
    assert (await system.ask("ledger"))["reconciled"] == {}
    connection = await asyncpg.connect(system.settings.postgres_url.get_secret_value())
    await connection.execute("INSERT INTO reconciled VALUES ('orders', '2026-01-31', '2026-01-30', '2026-01-31', 3, 1)")
    await connection.close()

    await system.until("ledger", {"reconciled": {"orders": {"findings": 3, "repaired": 1}}})


async def test_discarded_letters_leave_the_dead(system: System) -> None:
    ids = await system.submit("orders", BAD, BAD)
    await system.work()
    connection = await asyncpg.connect(system.settings.postgres_url.get_secret_value())
    await connection.execute("UPDATE dead_letters SET state = 'discarded' WHERE document_id = $1", ids[0])
    await connection.close()

    await system.until("ledger", {"pipelines": {"orders": {"dead": 1, "discarded": 1, "balanced": True}}})


@pytest.mark.parametrize(
    ("books", "documents", "expected"),
    [
        (Books(accepted=5, stored=5), 5, {"in_flight": 0}),
        (Books(accepted=5, stored=3, repeats=2), 3, {"duplicates": 2}),
        # Other bytes under a key: each sink refuses them.
        (
            Books(5, 4, 0, (Letters("facts", "dead", True, False, 1), Letters("documents", "dead", True, False, 1))),
            4,
            {"dead": 1, "duplicates": 0},
        ),
        # Three came at once; the sinks took another body for the first.
        (
            Books(3, 1, 1, (Letters("facts", "dead", True, False, 1), Letters("documents", "dead", True, False, 2))),
            1,
            {"in_flight": 0},
        ),
        (
            Books(3, 1, 0, (Letters("facts", "dead", True, False, 2), Letters("documents", "dead", True, False, 1))),
            1,
            {"in_flight": 0},
        ),
        (Books(5, 4, 0, (Letters("refine", "dead", False, False, 1),)), 4, {"dead": 1}),
        (Books(5, 4, 0, (Letters("facts", "dead", False, False, 1),)), 5, {"dead": 1}),
        (Books(5, 5, 0, (Letters("documents", "discarded", False, False, 2),)), 3, {"discarded": 2}),
        # Sent twice, refused twice by MongoDB, stored and repeated in Postgres.
        (
            Books(
                2,
                1,
                1,
                (Letters("documents", "dead", False, True, 1), Letters("documents", "dead", False, False, 1)),
            ),
            0,
            {"dead": 2, "duplicates": 0},
        ),
        # Refused, given back with a new block, stored.
        (Books(3, 2, 0, (Letters("refine", "replayed", False, False, 1, True),)), 2, {"accepted": 2, "dead": 0}),
        # Marked to be given back, and not in the stream yet; then there, before that was noted.
        (Books(2, 1, 0, (Letters("refine", "replaying", False, False, 1),)), 1, {"accepted": 2, "in_flight": 1}),
        (Books(3, 2, 0, (Letters("refine", "replaying", False, False, 1, True),)), 2, {"accepted": 2, "in_flight": 0}),
        # Given back, refused once more.
        (
            Books(
                2,
                0,
                0,
                (Letters("refine", "replayed", False, False, 1, True), Letters("refine", "dead", False, False, 1)),
            ),
            0,
            {"accepted": 1, "dead": 1},
        ),
        # A sink's own goes back as the document of its block: nothing is accepted anew.
        (Books(2, 2, 0, (Letters("facts", "replayed", False, False, 1),)), 2, {"accepted": 2, "dead": 0}),
        (Books(2, 1, 0, (Letters("facts", "replaying", False, False, 1),)), 2, {"accepted": 2, "in_flight": 1}),
        (
            Books(1, 0, 0, (Letters("facts", "replayed", False, False, 1), Letters("facts", "dead", False, False, 1))),
            1,
            {"accepted": 1, "dead": 1},
        ),
        # Refused twice by MongoDB, stored and repeated in Postgres; given back, the one is stored, the other a repeat.
        (
            Books(
                2,
                1,
                1,
                (Letters("documents", "replayed", False, True, 1), Letters("documents", "replayed", False, False, 1)),
            ),
            1,
            {"dead": 0, "duplicates": 1},
        ),
    ],
)
def test_a_line_adds_up(books: Books, documents: int, expected: dict[str, int]) -> None:
    found = line(books, documents, IDLE)

    assert found["balanced"]
    assert adds_up(found)
    assert found.items() >= expected.items()


@pytest.mark.parametrize(
    ("accepted", "stored", "lags", "balanced"),
    [
        (5, 4, IDLE, False),
        (5, 4, busy("documents"), True),
        (5, 4, busy("dead"), True),
        (5, 6, IDLE, False),
        (5, 6, busy("facts"), False),
        (5, 6, busy("journal"), True),
    ],
)
def test_a_difference_is_balanced_only_where_a_backlog_explains_it(
    accepted: int, stored: int, lags: dict[str, Lag], balanced: bool
) -> None:
    assert line(Books(accepted, stored), stored, lags)["balanced"] is balanced


@pytest.mark.parametrize(
    ("letter", "stored", "lags", "balanced"),
    [
        # In the stream again, and the journal, which has nothing to do, has not seen it.
        (Letters("refine", "replayed", False, False, 1), 1, IDLE, False),
        (Letters("refine", "replayed", False, False, 1), 1, busy("journal"), True),
        # Given back to its sink, and not stored.
        (Letters("facts", "replayed", False, False, 1), 1, IDLE, False),
        (Letters("facts", "replayed", False, False, 1), 1, busy("facts"), True),
    ],
)
def test_what_is_given_back_and_does_not_arrive_is_seen(
    letter: Letters, stored: int, lags: dict[str, Lag], balanced: bool
) -> None:
    assert line(Books(2, stored, 0, (letter,)), 2, lags)["balanced"] is balanced


def test_a_stage_that_settled_something_during_the_count_was_busy() -> None:
    after = {**IDLE, "facts": Lag(0, 0, 12)}

    assert during(IDLE, after)["facts"].busy
    assert not during(IDLE, after)["documents"].busy
    assert during(busy("refine"), IDLE)["refine"].busy
