"""API keys for machines: shown once, kept as a digest, never stronger than who made them."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from auth.models import ApiKey, User
from auth.tokens import api_key_id, digest, new_api_key, ordered
from auth.users import admitted
from headrace.errors import AccessError, RequestError
from headrace.tokens import Principal, covers, is_api_key

MAX_KEYS: Final = 100

# For a key that does not expire: the last second that a timestamp can name.
NEVER: Final = 253402300799


async def create_key(
    session: AsyncSession, user: User, name: str, scopes: Iterable[str], now: datetime, expires_in: int | None
) -> tuple[ApiKey, str]:
    """Return the new key's row and the key itself, which nobody can tell again.

    Raises:
        RequestError: 409 `too_many_keys`.
        AccessError: the user is disabled.
    """
    # Locks the user, so that two requests at once cannot both be the last one allowed.
    await session.get_one(User, user.id, with_for_update=True, populate_existing=True)
    await admitted(session, user.id)
    live = select(func.count()).where(ApiKey.user_id == user.id, ApiKey.revoked_at.is_(None))
    if (await session.scalar(live) or 0) >= MAX_KEYS:
        raise RequestError(f"One user may have {MAX_KEYS} keys; delete some.", code="too_many_keys", status=409)
    key_id, key = new_api_key()
    row = ApiKey(
        id=key_id,
        user_id=user.id,
        name=name,
        sha256=digest(key),
        scopes=ordered(scopes),
        created_at=now,
        expires_at=now + timedelta(seconds=expires_in) if expires_in else None,
    )
    session.add(row)
    return row, key


async def list_keys(session: AsyncSession, user: User) -> Sequence[ApiKey]:
    """Return the keys that are not deleted, oldest first."""
    living = select(ApiKey).where(ApiKey.user_id == user.id, ApiKey.revoked_at.is_(None))
    return (await session.scalars(living.order_by(ApiKey.created_at, ApiKey.id))).all()


async def delete_key(session: AsyncSession, key_id: str, owner: User | None, now: datetime) -> ApiKey | None:
    """Revoke a key; None when there is none of that id. A repeat changes nothing.

    Args:
        owner: whose it must be, or None for an administrator, who may delete anybody's.
    """
    if "\x00" in key_id:
        return None
    row = await session.get(ApiKey, key_id)
    if row is None or (owner is not None and row.user_id != owner.id):
        return None
    row.revoked_at = row.revoked_at or now
    return row


async def end_keys(session: AsyncSession, user: User, now: datetime, oldest: datetime) -> Sequence[str]:
    """Revoke every key of a locked user; return the ids of those that lived until `oldest` or longer."""
    mine = ApiKey.user_id == user.id
    await session.execute(update(ApiKey).where(mine, ApiKey.revoked_at.is_(None)).values(revoked_at=now))
    return (await session.scalars(select(ApiKey.id).where(mine, ApiKey.revoked_at > oldest))).all()


async def find_key(session: AsyncSession, key: str) -> tuple[ApiKey, User] | None:
    """Return a key's row, deleted or not, and its owner, if the secret in it is right."""
    if not is_api_key(key):
        return None
    query = select(ApiKey, User).join(User, User.id == ApiKey.user_id).where(ApiKey.id == api_key_id(key))
    found = (await session.execute(query)).one_or_none()
    if found is None or not hmac.compare_digest(found.ApiKey.sha256, digest(key)):
        return None
    return found.ApiKey, found.User


async def verify_key(session: AsyncSession, key: str, now: datetime) -> Principal:
    """Return whom a key speaks for, with no more than its owner may do today.

    Raises:
        AccessError: 401 `invalid_key` or `key_expired`.
    """
    found = await find_key(session, key)
    if found is None or found[0].revoked_at:
        raise AccessError("This is no API key of this Headrace.", code="invalid_key")
    row, user = found
    if row.expires_at and row.expires_at <= now:
        raise AccessError("The API key has expired; make a new one.", code="key_expired")
    scopes = frozenset(scope for scope in row.scopes if covers(user.scopes, scope))
    return Principal(user.username, scopes, row.id, "", int(row.expires_at.timestamp()) if row.expires_at else NEVER)
