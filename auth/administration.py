"""What is done about accounts after they were made: passwords changed, users disabled and enabled, the audit read."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
from nats.js.kv import KeyValue
from sqlalchemy.ext.asyncio import AsyncSession

from auth import audit, keys, sessions, users
from auth.accounts import Accounts
from auth.audit import record
from auth.database import Database
from auth.models import User
from auth.requests import (
    AskAudit,
    NewPassword,
    PasswordChange,
    UserName,
    administrator_of,
    client_of,
    parse,
    person_of,
    strong,
)
from headrace.document import rfc3339
from headrace.errors import RequestError
from headrace.messaging.mesh import Handler, Reply, Request
from headrace.revocations import revoke
from headrace.settings import AuthSettings
from headrace.tokens import LEEWAY_SECONDS

_NO_CONTENT: Final = 204
# A gateway reads the list of revocations anew this often at the latest; what ended before is long known.
_TOLD_AGAIN: Final = timedelta(hours=1)


@dataclass(frozen=True)
class Administration:
    """These endpoints of the auth service; the caller says in `Headrace-Principal` for whom it acts."""

    settings: AuthSettings
    database: Database
    accounts: Accounts
    bucket: KeyValue

    def handlers(self) -> Mapping[str, Handler]:
        return {
            "password": self.change_password,
            "users.password": self.set_password,
            "users.disable": self.disable_user,
            "users.enable": self.enable_user,
            "audit": self.read_audit,
        }

    async def change_password(self, request: Request) -> Reply:
        """`{old_password, new_password}` from who logged in → 204; all sessions of the user end, this one too."""
        principal = person_of(request)
        change = parse(PasswordChange, request.payload)
        user = await self.accounts.proved(principal.subject, change.old_password, client_of(request))
        strong(principal.subject, change.new_password, "/new_password")
        await self._set_password(user.username, change.new_password, user.username, client_of(request))
        return Reply(b"", _NO_CONTENT)

    async def set_password(self, request: Request) -> Reply:
        """`{username, password}` from an administrator → 204; all sessions of the user end."""
        admin = administrator_of(request)
        new = parse(NewPassword, request.payload)
        strong(new.username, new.password)
        await self._set_password(new.username, new.password, admin.subject, client_of(request))
        return Reply(b"", _NO_CONTENT)

    async def disable_user(self, request: Request) -> Reply:
        """`{username}` from an administrator → 200 the user; sessions and API keys end for good, within a second."""
        admin = administrator_of(request)
        name = parse(UserName, request.payload).username
        now = datetime.now(UTC)
        async with self.database.transaction() as db:
            user = await _locked(db, name)
            if user.disabled_at is None:
                user.disabled_at = now
                await record(db, now, "user_disabled", user.username, actor=admin.subject, client=client_of(request))
            # Done again, it is told again: the first time the gateways may not have heard.
            ended = await self._end_sessions(db, user, now)
            ended += [f"key.{key_id}" for key_id in await keys.end_keys(db, user, now, now - _TOLD_AGAIN)]
            shown = public(user)
        await self._tell(ended)
        return Reply(msgspec.json.encode(shown))

    async def enable_user(self, request: Request) -> Reply:
        """`{username}` from an administrator → 200 the user, who may log in again and has to make new API keys."""
        admin = administrator_of(request)
        name = parse(UserName, request.payload).username
        now = datetime.now(UTC)
        async with self.database.transaction() as db:
            user = await _locked(db, name)
            if user.disabled_at is not None:
                user.disabled_at = None
                await record(db, now, "user_enabled", user.username, actor=admin.subject, client=client_of(request))
            return Reply(msgspec.json.encode(public(user)))

    async def read_audit(self, request: Request) -> Reply:
        """`{actor?, account?, action?, since?, until?, cursor?, limit?}` from an administrator → 200, a page."""
        administrator_of(request)
        asked = parse(AskAudit, request.payload)
        async with self.database.transaction() as db:
            found = await audit.entries(db, asked, asked.limit + 1)
        shown = found[: asked.limit]
        body = {
            "items": [
                {
                    "at": rfc3339(entry.at),
                    "by": entry.actor or entry.account,
                    "action": entry.event,
                    "account": entry.account,
                    "client": entry.client,
                    "detail": entry.detail,
                }
                for entry in shown
            ],
            "next": str(shown[-1].id) if len(found) > len(shown) else None,
        }
        return Reply(msgspec.json.encode(body))

    async def _set_password(self, username: str, password: str, actor: str, client: str | None) -> None:
        password_hash = await self.accounts.hasher.hash(password)
        now = datetime.now(UTC)
        async with self.database.transaction() as db:
            user = await _locked(db, username)
            user.password_hash = password_hash
            await record(db, now, "password_changed", user.username, actor=actor, client=client)
            ended = await self._end_sessions(db, user, now)
        await self._tell(ended)

    async def _end_sessions(self, db: AsyncSession, user: User, now: datetime) -> list[str]:
        """End all sessions of a locked user; return what the gateways have to be told."""
        oldest = now - timedelta(seconds=self.settings.access_seconds + 2 * LEEWAY_SECONDS)
        return [f"sid.{family}" for family in await sessions.end_sessions(db, user, now, oldest)]

    async def _tell(self, ended: Sequence[str]) -> None:
        await asyncio.gather(*(revoke(self.bucket, name) for name in ended))


async def _locked(db: AsyncSession, username: str) -> User:
    """Return a user whom no login, refresh or new key can overtake until the transaction ends.

    Raises:
        RequestError: 404 `user_not_found`.
    """
    user = await users.find_user(db, username, lock=True)
    if user is None:
        raise RequestError("There is no user of this name.", code="user_not_found", status=404)
    return user


def public(user: User) -> dict[str, Any]:
    """Return what an administrator sees of a user."""
    return {
        "username": user.username,
        "scopes": user.scopes,
        "created_at": rfc3339(user.created_at),
        "disabled_at": rfc3339(user.disabled_at) if user.disabled_at else None,
    }
