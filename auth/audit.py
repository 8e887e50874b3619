"""The audit: who did what, when and from where. Failed logins are counted from it, so all instances share the limit."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from auth.models import AuditEntry
from auth.requests import AskAudit
from headrace import telemetry

log = telemetry.logger(__name__)

LOGIN_FAILED: Final = "login_failed"
FAILURE_WINDOW: Final = timedelta(minutes=1)


async def record(
    session: AsyncSession,
    now: datetime,
    event: str,
    account: str,
    *,
    actor: str | None = None,
    client: str | None = None,
    **detail: str | list[str],
) -> None:
    """Add an entry to the audit and to the log.

    Args:
        account: whom it concerns, as `account_of` says it.
        actor: who did it, where that is somebody else.
        client: address that the request came from.
        detail: ids and names, never a secret.
    """
    session.add(AuditEntry(at=now, event=event, account=account, actor=actor, client=client, detail=detail))
    log.info(event, account=account, actor=actor, client=client, **detail)


async def entries(session: AsyncSession, asked: AskAudit, limit: int) -> Sequence[AuditEntry]:
    """Return what the audit has, newest first."""
    wanted = {
        func.coalesce(AuditEntry.actor, AuditEntry.account): asked.actor,
        AuditEntry.account: asked.account,
        AuditEntry.event: asked.action,
    }
    query = select(AuditEntry).where(*(column == value for column, value in wanted.items() if value is not None))
    if asked.since is not None:
        query = query.where(AuditEntry.at >= asked.since)
    if asked.until is not None:
        query = query.where(AuditEntry.at < asked.until)
    if asked.cursor is not None:
        query = query.where(AuditEntry.id < asked.cursor)
    return (await session.scalars(query.order_by(AuditEntry.id.desc()).limit(limit))).all()


def account_of(username: str, *, exists: bool) -> str:
    """Return the name under which an account is audited.

    A name that nobody has is kept as a digest, since people type their password into the wrong field,
    yet is counted like any other, so a limit does not tell which names exist.
    """
    if exists:
        return username
    return "unknown:" + hashlib.sha256(username.lower().encode(errors="replace")).hexdigest()[:16]


async def seconds_to_wait(
    session: AsyncSession, now: datetime, account: str, client: str | None, *, per_account: int, per_client: int
) -> float:
    """Return how long logins stay refused after too many failures; 0 when one may be tried."""
    waits = [await _wait(session, now, AuditEntry.account == account, per_account)]
    if client:
        waits.append(await _wait(session, now, AuditEntry.client == client, per_client))
    return max(waits)


async def _wait(session: AsyncSession, now: datetime, of: ColumnElement[bool], most: int) -> float:
    # The failure that must leave the window before there is room again is the `most`-th newest.
    failures = (
        select(AuditEntry.at)
        .where(of, AuditEntry.event == LOGIN_FAILED, AuditEntry.at > now - FAILURE_WINDOW)
        .order_by(AuditEntry.at.desc())
        .offset(most - 1)
        .limit(1)
    )
    in_the_way = await session.scalar(failures)
    return (in_the_way + FAILURE_WINDOW - now).total_seconds() if in_the_way else 0.0
