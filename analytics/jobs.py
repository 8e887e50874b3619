"""The job of analytics: the books of every pipeline are checked, and those that do not balance are reported."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from analytics.books import Bookkeeper
from headrace import telemetry
from headrace.job import Job, JobFailedError, Run

log = telemetry.logger(__name__)

# A block may be between two books when they are counted; what does not balance in all of these is wrong.
_COUNTS: Final = 3
# How often to ask for another counting; the bookkeeper may answer with the same one for a while.
_ASKED: Final = 60
_APART_SECONDS: Final = 1.5
_COUNT_SECONDS: Final = 120.0


def jobs(bookkeeper: Bookkeeper) -> list[Job]:
    """Return the jobs of this service."""

    async def check(_run: Run) -> Mapping[str, Any]:
        return await check_ledger(bookkeeper, _APART_SECONDS)

    return [
        Job(
            name="ledger_check",
            about="Checks that every accepted document is stored, refused or on its way.",
            when="*/10 * * * *",
            work=check,
            retries=2,
            backoff_seconds=30,
        )
    ]


async def check_ledger(bookkeeper: Bookkeeper, apart_seconds: float) -> Mapping[str, Any]:
    """Count the books until all balance, a few times at most.

    Raises:
        JobFailedError: some never did; the result has their lines.
        UnavailableError: a store is away.
    """
    ledger = await bookkeeper.ledger(_COUNT_SECONDS)
    unbalanced = _unbalanced(ledger)
    counts = {ledger["at"]}
    for _ in range(_ASKED):
        if not unbalanced or len(counts) >= _COUNTS:
            break
        await asyncio.sleep(apart_seconds)
        ledger = await bookkeeper.ledger(_COUNT_SECONDS)
        unbalanced &= _unbalanced(ledger)
        counts.add(ledger["at"])
    lines = ledger["pipelines"]
    for name in lines:
        telemetry.ledger_balanced.labels(name).set(name not in unbalanced)
    result = {
        "at": ledger["at"],
        "pipelines": len(lines),
        "unbalanced": {name: lines[name] for name in sorted(unbalanced)},
    }
    if unbalanced:
        log.error("ledger_unbalanced", pipelines=sorted(unbalanced))
        raise JobFailedError(f"the books do not balance: {', '.join(sorted(unbalanced))}", result=result)
    return result


def _unbalanced(ledger: Mapping[str, Any]) -> set[str]:
    return {name for name, line in ledger["pipelines"].items() if not line["balanced"]}
