"""Users: made once, found by name whatever its case."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from auth.models import User
from auth.tokens import ordered
from headrace.document import new_id
from headrace.errors import AccessError


async def find_user(session: AsyncSession, username: str, *, lock: bool = False) -> User | None:
    # Postgres takes no NUL in text, and no name holds one.
    if "\x00" in username:
        return None
    query = select(User).where(func.lower(User.username) == func.lower(username))
    return await session.scalar(query.with_for_update().execution_options(populate_existing=True) if lock else query)


async def admitted(session: AsyncSession, user_id: uuid.UUID) -> User:
    """Return a user who may act, and stays so until the transaction ends.

    Raises:
        AccessError: 403 `user_disabled`.
    """
    user = await session.get_one(User, user_id, with_for_update={"read": True}, populate_existing=True)
    if user.disabled_at is not None:
        raise AccessError("This user is disabled; ask an administrator.", code="user_disabled", status=403)
    return user


async def add_user(session: AsyncSession, username: str, password_hash: str, scopes: Iterable[str]) -> User | None:
    """Return the new user, or None when somebody has that name."""
    new = insert(User).values(
        id=uuid.UUID(new_id()), username=username, password_hash=password_hash, scopes=ordered(scopes)
    )
    return await session.scalar(new.on_conflict_do_nothing().returning(User))


async def list_users(session: AsyncSession) -> Sequence[User]:
    return (await session.scalars(select(User).order_by(func.lower(User.username)))).all()
