"""A write that fails in part: each document has its own outcome, and nothing is taken for stored that may not be."""

from __future__ import annotations

from typing import Any

import asyncpg
import pymongo.errors
import pytest

from headrace.errors import DocumentError, UnavailableError
from headrace.storage import mongo, postgres

KNOWN, DISK, TOO_LARGE = 11000, 14031, 10334
ENCODED = [{"_id": number} for number in range(4)]


def bulk_error(*codes: int, concern: bool = False) -> pymongo.errors.BulkWriteError:
    errors = [{"index": index, "code": code} for index, code in enumerate(codes)]
    details: dict[str, Any] = {"writeErrors": errors}
    if concern:
        details["writeConcernErrors"] = [{"code": 64, "errmsg": "waiting for replication timed out"}]
    return pymongo.errors.BulkWriteError(details)


def test_ids_that_are_there_already_are_no_failure() -> None:
    assert mongo._known_ids(bulk_error(KNOWN, KNOWN), ENCODED) == [0, 1]


@pytest.mark.parametrize(
    ("error", "raised", "code"),
    [
        # A duplicate beside a server that cannot write: the batch comes again, none of it is acknowledged.
        (bulk_error(KNOWN, DISK), UnavailableError, "mongo_unavailable"),
        (bulk_error(KNOWN, TOO_LARGE), DocumentError, "store_refused"),
        # Written, but not as durably as was asked for; duplicates may be so, too.
        (bulk_error(KNOWN, concern=True), UnavailableError, "mongo_unavailable"),
        (bulk_error(concern=True), UnavailableError, "mongo_unavailable"),
    ],
)
def test_a_failure_among_them_is_told_by_whose_fault_it_is(
    error: pymongo.errors.BulkWriteError, raised: type[DocumentError | UnavailableError], code: str
) -> None:
    with pytest.raises(raised) as caught:
        mongo._known_ids(error, ENCODED)

    assert caught.value.code == code


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.DeadlockDetectedError("deadlock detected"),
        asyncpg.SerializationError("could not serialize"),
        asyncpg.DiskFullError("no space left"),
        asyncpg.TooManyConnectionsError("sorry"),
        asyncpg.ReadOnlySQLTransactionError("a standby"),
        asyncpg.AdminShutdownError("terminating"),
    ],
)
async def test_what_time_heals_in_postgres_is_tried_again_and_blames_no_document(error: Exception) -> None:
    with pytest.raises(UnavailableError) as caught:
        async with postgres._translated():
            raise error

    assert caught.value.code == "postgres_unavailable"
