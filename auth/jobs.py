"""The jobs of auth: the number of registered users each minute, and the removal of what is old."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert

from auth.database import Database
from auth.models import AuditEntry, User, UsersCount
from headrace.job import Job, Run
from headrace.settings import JobSettings


def jobs(database: Database, settings: JobSettings) -> list[Job]:
    """Return the jobs of this service."""

    async def count_users(run: Run) -> Mapping[str, Any]:
        async with database.transaction() as session:
            count = await session.scalar(select(func.count()).select_from(User)) or 0
            # A run that is begun twice writes one row.
            row = {"id": uuid.UUID(run.id), "count": count, "timestamp": run.scheduled_at}
            await session.execute(insert(UsersCount).values(row).on_conflict_do_nothing())
        return {"count": count}

    async def clean_counts(run: Run) -> Mapping[str, Any]:
        async with database.transaction() as session:
            # The count of this very minute may come before or after; it always stays.
            done = await session.execute(delete(UsersCount).where(UsersCount.timestamp < run.scheduled_at))
        return {"deleted": _rows(done)}

    async def trim_audit(run: Run) -> Mapping[str, Any]:
        before = run.scheduled_at - timedelta(days=settings.audit_days)
        async with database.transaction() as session:
            done = await session.execute(delete(AuditEntry).where(AuditEntry.at < before))
        return {"deleted": _rows(done), "before": before.isoformat()}

    return [
        Job(
            name="users_count",
            about="Notes how many users are registered, a row each minute.",
            when="* * * * *",
            work=count_users,
            retries=2,
            backoff_seconds=5,
            timeout_seconds=30,
        ),
        Job(
            name="users_count_cleaner",
            about="Deletes the rows that users_count has written.",
            when="@hourly",
            work=clean_counts,
            retries=3,
            missed="once",
            timeout_seconds=60,
        ),
        Job(
            name="audit_trim",
            about="Deletes audit entries that are older than jobs.audit_days.",
            when="20 3 * * *",
            work=trim_audit,
            retries=3,
            missed="once",
        ),
    ]


def _rows(done: Any) -> int:
    return int(done.rowcount)
