"""Sessions: a login gives a family of refresh tokens, of which one is live; using an old one ends the family."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from auth.models import RefreshToken, User
from auth.tokens import digest, new_refresh_token, ordered
from auth.users import admitted
from headrace.document import new_id
from headrace.tokens import covers


@dataclass(frozen=True)
class Session:
    """A login that lives: who, with which scopes, and the one refresh token that continues it."""

    user: User
    family: uuid.UUID
    scopes: tuple[str, ...]
    refresh_token: str


@dataclass(frozen=True)
class Reused:
    """An old refresh token came back: one of two holders stole it, so the session has been ended."""

    user: User
    family: uuid.UUID


async def open_session(
    session: AsyncSession, user: User, scopes: Iterable[str], now: datetime, refresh_seconds: int
) -> Session:
    """Begin a session; the user's expired refresh tokens are forgotten on the way.

    Raises:
        AccessError: the user is disabled.
    """
    user = await admitted(session, user.id)
    await session.execute(delete(RefreshToken).where(RefreshToken.user_id == user.id, RefreshToken.expires_at < now))
    return _continue(session, user, uuid.UUID(new_id()), scopes, now, refresh_seconds)


async def rotate(
    session: AsyncSession, refresh_token: str, now: datetime, refresh_seconds: int
) -> Session | Reused | None:
    """Trade a refresh token for the next one of its family; None when it is unknown, expired or revoked.

    Raises:
        AccessError: the user is disabled.
    """
    owner = await session.scalar(select(RefreshToken.user_id).where(RefreshToken.sha256 == digest(refresh_token)))
    if owner is None:
        return None
    # First the user, as who ends all sessions does: what is issued here is then seen there.
    user = await admitted(session, owner)
    # The lock makes two uses at the same time one use and one reuse.
    row = await session.get(RefreshToken, digest(refresh_token), with_for_update=True)
    if row is None or row.expires_at <= now:
        return None
    if row.used_at:
        await end_session(session, row.family, now)
        return Reused(user, row.family)
    if row.revoked_at:
        return None
    row.used_at = now
    still_held = [scope for scope in row.scopes if covers(user.scopes, scope)]
    return _continue(session, user, row.family, still_held, now, refresh_seconds)


async def find_session(session: AsyncSession, refresh_token: str) -> tuple[User, uuid.UUID] | None:
    """Return whose session a refresh token belongs to, used and revoked ones included."""
    row = await session.get(RefreshToken, digest(refresh_token))
    return (await session.get_one(User, row.user_id), row.family) if row else None


async def end_session(session: AsyncSession, family: uuid.UUID, now: datetime) -> None:
    """Revoke every refresh token of a session; a repeat changes nothing."""
    await session.execute(
        update(RefreshToken)
        .where(RefreshToken.family == family, RefreshToken.revoked_at.is_(None))
        .values(revoked_at=now)
    )


async def end_sessions(session: AsyncSession, user: User, now: datetime, oldest: datetime) -> Sequence[uuid.UUID]:
    """Revoke every refresh token of a locked user; return the sessions that were given a token after `oldest`.

    Those ended before are among them: what they were given may still be in use.
    """
    await session.execute(
        update(RefreshToken)
        .where(RefreshToken.user_id == user.id, RefreshToken.revoked_at.is_(None))
        .values(revoked_at=now)
    )
    recent = select(RefreshToken.family).where(RefreshToken.user_id == user.id, RefreshToken.issued_at > oldest)
    return (await session.scalars(recent.distinct())).all()


def _continue(
    session: AsyncSession, user: User, family: uuid.UUID, scopes: Iterable[str], now: datetime, refresh_seconds: int
) -> Session:
    refresh_token = new_refresh_token()
    session.add(
        RefreshToken(
            sha256=digest(refresh_token),
            family=family,
            user_id=user.id,
            scopes=ordered(scopes),
            issued_at=now,
            expires_at=now + timedelta(seconds=refresh_seconds),
        )
    )
    return Session(user, family, tuple(ordered(scopes)), refresh_token)
