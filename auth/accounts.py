"""Accounts: made by their owner, by an administrator or by the settings; proved by a password."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import msgspec

from auth.audit import LOGIN_FAILED, account_of, record, seconds_to_wait
from auth.database import Database
from auth.models import User
from auth.passwords import Hasher
from auth.requests import Login, Registration, parse, strong
from auth.users import add_user, find_user
from headrace.errors import AccessError, DocumentError, HeadraceError, RateError, RequestError
from headrace.settings import AuthSettings
from headrace.tokens import ADMIN

# Many people may share an address, so it gets more room than one account.
_ACCOUNTS_PER_CLIENT: Final = 10


@dataclass(frozen=True)
class Accounts:
    settings: AuthSettings
    database: Database
    hasher: Hasher

    async def add(
        self,
        account: Registration,
        scopes: Iterable[str],
        event: str,
        *,
        actor: str | None = None,
        client: str | None = None,
    ) -> User:
        """Make a user and audit it as `event`.

        Raises:
            RequestError: 409 `username_taken`.
        """
        with self.hasher.place():
            async with self.database.transaction() as db:
                # Before the hash, which costs more than all the rest.
                if await find_user(db, account.username):
                    raise _taken(account.username)
            password_hash = await self.hasher.hash(account.password)
        now = datetime.now(UTC)
        async with self.database.transaction() as db:
            user = await add_user(db, account.username, password_hash, scopes)
            if user is None:
                raise _taken(account.username)
            await record(db, now, event, user.username, actor=actor, client=client, scopes=user.scopes)
        return user

    async def authenticated(self, login: Login, client: str | None) -> User:
        """Return the user whose name and password these are; whether the user is disabled is another question.

        Raises:
            AccessError: 401 `invalid_credentials`, without a hint whether the name exists.
            RateError: 429, too many failures in the last minute for this account or from this client.
            UnavailableError: too many wait to be verified, or Postgres is away.
        """
        user = await self._matching(login.username, login.password, client)
        if user is None:
            raise AccessError("The username or the password is wrong.", code="invalid_credentials")
        return user

    async def proved(self, username: str, password: str, client: str | None) -> User:
        """Return the user, who is known already, if the password is right; as many may be tried as to log in.

        Raises:
            AccessError: 403 `wrong_password`.
            RateError, UnavailableError: as `authenticated`.
        """
        user = await self._matching(username, password, client)
        if user is None:
            raise AccessError("The old password is wrong.", code="wrong_password", status=403)
        return user

    async def _matching(self, username: str, password: str, client: str | None) -> User | None:
        with self.hasher.place():
            return await self._matched(username, password, client)

    async def _matched(self, username: str, password: str, client: str | None) -> User | None:
        limit = self.settings.login_attempts
        async with self.database.transaction() as db:
            user = await find_user(db, username)
            account = account_of(user.username if user else username, exists=user is not None)
            wait_seconds = await seconds_to_wait(
                db, datetime.now(UTC), account, client, per_account=limit, per_client=limit * _ACCOUNTS_PER_CLIENT
            )
        if wait_seconds > 0:
            raise RateError(
                "Too many failed logins; wait.", code="too_many_logins", retry_after_seconds=round(wait_seconds, 1)
            )
        right, stronger_hash = await self.hasher.verify(password, user.password_hash if user else None)
        if user is None or not right:
            async with self.database.transaction() as db:
                await record(db, datetime.now(UTC), LOGIN_FAILED, account, client=client)
            return None
        if stronger_hash:
            async with self.database.transaction() as db:
                (await db.get_one(User, user.id)).password_hash = stronger_hash
        return user

    async def bootstrap(self) -> None:
        """Make the administrator that the settings name, unless there is one; a changed password stays changed.

        Raises:
            HeadraceError: the name or the password will not do, or there is no password.
        """
        name, password = self.settings.bootstrap_admin, self.settings.bootstrap_password
        if name is None:
            return
        async with self.database.transaction() as db:
            if await find_user(db, name):
                return
        if password is None:
            raise HeadraceError("HEADRACE_AUTH__BOOTSTRAP_ADMIN needs HEADRACE_AUTH__BOOTSTRAP_PASSWORD.")
        try:
            given = msgspec.json.encode({"username": name, "password": password.get_secret_value()})
            account = parse(Registration, given)
            strong(account.username, account.password)
        except DocumentError as error:
            rules = " ".join(f"{rule.pointer}: {rule.message}" for rule in error.errors)
            raise HeadraceError(f"HEADRACE_AUTH__BOOTSTRAP_ADMIN cannot be made: {rules}") from None
        with contextlib.suppress(RequestError):
            # Another instance may have been quicker.
            await self.add(account, (ADMIN,), "administrator_made")


def _taken(username: str) -> RequestError:
    return RequestError(f"Somebody is called {username} already.", code="username_taken", status=409)
