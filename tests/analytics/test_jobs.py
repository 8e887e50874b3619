"""The job that checks the books: an unbalanced pipeline fails the run, with its line as the result."""

from __future__ import annotations

from typing import Any, cast

import pytest

from analytics.books import Bookkeeper
from analytics.jobs import check_ledger
from headrace import telemetry
from headrace.job import JobFailedError


class Books:
    """A bookkeeper whose countings are written down; the last one stays."""

    def __init__(self, *countings: dict[str, bool]) -> None:
        self._countings = list(countings)
        self.counted = 0

    async def ledger(self, _wait_seconds: float) -> dict[str, Any]:
        counting = self._countings[min(self.counted, len(self._countings) - 1)]
        self.counted += 1
        return {"at": f"count {self.counted}", "pipelines": {n: {"balanced": b} for n, b in counting.items()}}


def check(books: Books) -> Any:
    return check_ledger(cast(Bookkeeper, books), 0)


def balanced(pipeline: str) -> float | None:
    return telemetry.REGISTRY.get_sample_value("headrace_ledger_balanced", {"pipeline": pipeline})


async def test_books_that_balance_are_counted_once() -> None:
    books = Books({"invoices": True, "searches": True})

    assert await check(books) == {"at": "count 1", "pipelines": 2, "unbalanced": {}}
    assert books.counted == 1


async def test_what_was_between_two_books_when_counted_is_no_loss() -> None:
    books = Books({"invoices": False, "searches": True}, {"invoices": True, "searches": False})

    assert (await check(books))["unbalanced"] == {}


async def test_a_pipeline_that_never_balances_fails_the_run_and_shows_in_the_metrics() -> None:
    with pytest.raises(JobFailedError, match="the books do not balance: invoices") as failed:
        await check(Books({"invoices": False, "searches": True}))

    assert failed.value.result == {"at": "count 3", "pipelines": 2, "unbalanced": {"invoices": {"balanced": False}}}
    assert (balanced("invoices"), balanced("searches")) == (0, 1)
