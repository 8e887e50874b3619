"""The signing keys that live in Postgres: made once by whichever instance is first, rotated with an overlap."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from auth.models import StoredSigningKey
from auth.tokens import ROTATION_LEAD, Keyring, SigningKey, new_signing_key

# The first key signs at once, whatever the clocks of the other instances say.
_ALWAYS = datetime.fromtimestamp(0, UTC)


async def stored_keyring(session: AsyncSession) -> Keyring:
    rows = await session.scalars(select(StoredSigningKey).order_by(StoredSigningKey.signs_from.desc()))
    return Keyring(tuple(SigningKey(row.private_pem, row.signs_from) for row in rows))


async def ensure_signing_key(session: AsyncSession) -> None:
    """Make the first key unless there is one; the caller holds the lock."""
    if not (await stored_keyring(session)).keys:
        _store(session, new_signing_key(_ALWAYS))


async def rotate_signing_key(session: AsyncSession, now: datetime, access_seconds: int) -> SigningKey:
    """Return the key that will sign when every gateway has had time to fetch it; the caller holds the lock.

    Keys by which no living token is signed are forgotten.
    """
    keyring = await stored_keyring(session)
    for key in keyring.outlived(now, access_seconds):
        await session.execute(delete(StoredSigningKey).where(StoredSigningKey.kid == key.kid))
    new = new_signing_key(now + ROTATION_LEAD)
    _store(session, new)
    return new


def _store(session: AsyncSession, key: SigningKey) -> None:
    session.add(StoredSigningKey(kid=key.kid, private_pem=key.private_pem, signs_from=key.signs_from))
