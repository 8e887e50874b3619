"""The endpoints of the auth service: one short handler each, from JSON to JSON."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final

import msgspec
from nats.js.kv import KeyValue
from sqlalchemy.ext.asyncio import AsyncSession

from auth import keys, sessions, signing, users
from auth.accounts import Accounts
from auth.administration import Administration, public
from auth.audit import record
from auth.database import Database
from auth.models import ApiKey, User
from auth.requests import (
    Addition,
    Bearer,
    Key,
    KeyId,
    Login,
    NewKey,
    Refresh,
    Registration,
    administrator_of,
    client_of,
    key_keeper_of,
    login_scopes,
    parse,
    principal_of,
    strong,
)
from auth.tokens import REFRESH_PREFIX, Keyring, sign_access
from headrace.document import new_id, rfc3339
from headrace.errors import AccessError, RequestError
from headrace.messaging.mesh import Handler, Reply, Request
from headrace.revocations import Revocations, revoke
from headrace.settings import AuthSettings
from headrace.tokens import (
    ADMIN,
    NARROWABLE,
    PRINCIPAL_HEADER,
    Principal,
    TokenVerifier,
    covers,
    is_api_key,
)

# An answer with a secret in it must not stay in a cache.
_NO_STORE: Final = {"Cache-Control": "no-store"}


@dataclass(frozen=True)
class AuthService:
    """The endpoints. A caller that acts for somebody says so in the header `Headrace-Principal`.

    Attributes:
        file_keyring: keys of the settings' file; without one, those in Postgres are used.
    """

    settings: AuthSettings
    database: Database
    accounts: Accounts
    administration: Administration
    bucket: KeyValue
    revocations: Revocations
    file_keyring: Keyring | None

    def handlers(self) -> Mapping[str, Handler]:
        return {
            "register": self.register,
            "token": self.token,
            "refresh": self.refresh,
            "revoke": self.revoke,
            "me": self.me,
            "jwks": self.jwks,
            "verify_key": self.verify_key,
            "keys.create": self.create_key,
            "keys.list": self.list_keys,
            "keys.delete": self.delete_key,
            "users.add": self.add_user,
            "users.list": self.list_users,
            "signing.rotate": self.rotate_signing_key,
            **self.administration.handlers(),
        }

    async def register(self, request: Request) -> Reply:
        """`{username, password}` → 201 `{username, scopes}`."""
        if not self.settings.register_open:
            raise AccessError("Only an administrator adds users here.", code="registration_closed", status=403)
        account = parse(Registration, request.payload)
        strong(account.username, account.password)
        user = await self.accounts.add(account, NARROWABLE, "registered", client=client_of(request))
        return _json(_public(user), 201)

    async def token(self, request: Request) -> Reply:
        """`{username, password, scope?}` → 200, a pair of tokens."""
        login = parse(Login, request.payload)
        wanted = login_scopes(login)
        user = await self.accounts.authenticated(login, client_of(request))
        granted = _covered(user.scopes, wanted or user.scopes)
        now = _now()
        async with self.database.transaction() as db:
            opened = await sessions.open_session(db, user, granted, now, self.settings.refresh_seconds)
            await record(db, now, "logged_in", user.username, client=client_of(request), session_id=str(opened.family))
            return _json(await self._grant(db, opened, now), headers=_NO_STORE)

    async def refresh(self, request: Request) -> Reply:
        """`{refresh_token}` → 200, a new pair; the old refresh token is dead, and its reuse ends the session."""
        old = parse(Refresh, request.payload).refresh_token
        now = _now()
        async with self.database.transaction() as db:
            outcome = await sessions.rotate(db, old, now, self.settings.refresh_seconds)
            if isinstance(outcome, sessions.Session):
                return _json(await self._grant(db, outcome, now), headers=_NO_STORE)
            if isinstance(outcome, sessions.Reused):
                name, family = outcome.user.username, str(outcome.family)
                await record(db, now, "refresh_reused", name, client=client_of(request), session_id=family)
        # Only now is it committed that the session is over.
        if isinstance(outcome, sessions.Reused):
            await revoke(self.bucket, f"sid.{outcome.family}")
        raise AccessError("The refresh token is not valid; log in again.", code="invalid_refresh_token")

    async def revoke(self, request: Request) -> Reply:
        """`{token}` → 204 whatever it was (RFC 7009): a refresh token ends its session, others only themselves."""
        token = parse(Bearer, request.payload).token
        with contextlib.suppress(AccessError):
            if token.startswith(REFRESH_PREFIX):
                await self._end_session(token, client_of(request))
            elif is_api_key(token):
                await self._revoke_key(token, client_of(request))
            else:
                await self._revoke_access(token, client_of(request))
        return Reply(b"", 204)

    async def me(self, request: Request) -> Reply:
        """`{token}`, or nothing from somebody the gateway knows → 200, the principal with its `username`."""
        if PRINCIPAL_HEADER in request.headers:
            principal = principal_of(request)
        else:
            token = parse(Bearer, request.payload).token
            principal = await (self._key_principal(token) if is_api_key(token) else self._token_principal(token))
        return _json({"username": principal.subject, **msgspec.to_builtins(principal)})

    async def jwks(self, _request: Request) -> Reply:
        """→ 200, the public keys as a JWK set."""
        async with self.database.transaction() as db:
            return _json((await self._keyring(db)).jwks())

    async def verify_key(self, request: Request) -> Reply:
        """`{key}` → 200, the principal it speaks for; 401."""
        return _json(await self._key_principal(parse(Key, request.payload).key))

    async def create_key(self, request: Request) -> Reply:
        """`{name, scopes, expires_in?}` → 201 with the key, which is shown this once."""
        principal = key_keeper_of(request)
        new = parse(NewKey, request.payload)
        _covered(principal.scopes, new.scopes)
        now = _now()
        async with self.database.transaction() as db:
            owner = await self._user(db, principal)
            _covered(owner.scopes, new.scopes)
            row, key = await keys.create_key(db, owner, new.name, new.scopes, now, new.expires_in)
            await record(
                db, now, "key_created", owner.username, client=client_of(request), key=row.id, scopes=row.scopes
            )
        return _json({**_shown(row), "key": key}, 201, _NO_STORE)

    async def list_keys(self, request: Request) -> Reply:
        """→ 200, the caller's keys without their secrets."""
        principal = principal_of(request)
        async with self.database.transaction() as db:
            rows = await keys.list_keys(db, await self._user(db, principal))
        return _json([_shown(row) for row in rows])

    async def delete_key(self, request: Request) -> Reply:
        """`{id}` → 204; 404 for a key that is not the caller's. An administrator deletes anybody's."""
        principal = key_keeper_of(request)
        key_id = parse(KeyId, request.payload).id
        await self._delete_key(key_id, principal.subject, by_admin=principal.may(ADMIN), client=client_of(request))
        return Reply(b"", 204)

    async def add_user(self, request: Request) -> Reply:
        """`{username, password, scopes?}` from an administrator → 201 `{username, scopes}`."""
        admin = administrator_of(request)
        account = parse(Addition, request.payload)
        strong(account.username, account.password)
        user = await self.accounts.add(account, account.scopes or NARROWABLE, "user_added", actor=admin.subject)
        return _json(_public(user), 201)

    async def list_users(self, request: Request) -> Reply:
        """→ 200 to an administrator, every user."""
        administrator_of(request)
        async with self.database.transaction() as db:
            rows = await users.list_users(db)
        return _json([public(user) for user in rows])

    async def rotate_signing_key(self, request: Request) -> Reply:
        """→ 201 to an administrator, the id of the key that will sign and since when."""
        admin = administrator_of(request)
        if self.file_keyring:
            raise RequestError(
                "The signing keys are in a file: put the new one first in it, keep the old, and restart.",
                code="signing_key_in_file",
                status=409,
            )
        now = _now()
        async with self.database.transaction(lock=True) as db:
            key = await signing.rotate_signing_key(db, now, self.settings.access_seconds)
            await record(db, now, "signing_key_rotated", admin.subject, key=key.kid)
        return _json({"kid": key.kid, "signs_from": rfc3339(key.signs_from)}, 201)

    async def _grant(self, db: AsyncSession, opened: sessions.Session, now: datetime) -> dict[str, Any]:
        principal = Principal(
            subject=opened.user.username,
            scopes=frozenset(opened.scopes),
            token_id=new_id(),
            session_id=str(opened.family),
            expires_at=int(now.timestamp()) + self.settings.access_seconds,
        )
        signer = (await self._keyring(db)).signer(now)
        return {
            "access_token": sign_access(signer, principal, now),
            "token_type": "bearer",
            "expires_in": self.settings.access_seconds,
            "refresh_token": opened.refresh_token,
            "scope": " ".join(opened.scopes),
        }

    async def _keyring(self, db: AsyncSession) -> Keyring:
        return self.file_keyring or await signing.stored_keyring(db)

    async def _token_principal(self, token: str) -> Principal:
        async with self.database.transaction() as db:
            keyring = await self._keyring(db)
        principal = TokenVerifier(keyring.jwks()).verify(token)
        if self.revocations.is_revoked(principal):
            raise AccessError("The token has been revoked; log in again.", code="token_revoked")
        return principal

    async def _key_principal(self, key: str) -> Principal:
        async with self.database.transaction() as db:
            return await keys.verify_key(db, key, _now())

    async def _user(self, db: AsyncSession, principal: Principal) -> User:
        user = await users.find_user(db, principal.subject)
        if user is None:
            raise AccessError("This user is gone.", code="unknown_user")
        return user

    async def _end_session(self, refresh_token: str, client: str | None) -> None:
        now = _now()
        async with self.database.transaction() as db:
            found = await sessions.find_session(db, refresh_token)
            if found is None:
                return
            user, family = found
            await sessions.end_session(db, family, now)
            await record(db, now, "session_revoked", user.username, client=client, session_id=str(family))
        await revoke(self.bucket, f"sid.{family}")

    async def _revoke_access(self, token: str, client: str | None) -> None:
        principal = await self._token_principal(token)
        await revoke(self.bucket, f"jti.{principal.token_id}")
        async with self.database.transaction() as db:
            await record(db, _now(), "token_revoked", principal.subject, client=client, token=principal.token_id)

    async def _revoke_key(self, key: str, client: str | None) -> None:
        async with self.database.transaction() as db:
            found = await keys.find_key(db, key)
        if found:
            row, owner = found
            await self._delete_key(row.id, owner.username, by_admin=False, client=client)

    async def _delete_key(self, key_id: str, subject: str, *, by_admin: bool, client: str | None) -> None:
        now = _now()
        async with self.database.transaction() as db:
            owner = await users.find_user(db, subject)
            row = await keys.delete_key(db, key_id, None if by_admin else owner, now)
            if row is None:
                raise RequestError("There is no such key.", code="unknown_key_id", status=404)
            user = await db.get_one(User, row.user_id)
            await record(db, now, "key_deleted", user.username, actor=subject, client=client, key=row.id)
        await revoke(self.bucket, f"key.{row.id}")


def _json(body: object, status: int = 200, headers: Mapping[str, str] = MappingProxyType({})) -> Reply:
    return Reply(msgspec.json.encode(body), status, headers)


def _public(user: User) -> dict[str, Any]:
    return {"username": user.username, "scopes": user.scopes}


def _shown(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "scopes": key.scopes,
        "created_at": rfc3339(key.created_at),
        "expires_at": rfc3339(key.expires_at) if key.expires_at else None,
    }


def _covered(held: Iterable[str], wanted: Iterable[str]) -> list[str]:
    """Return the wanted scopes, all of which are held.

    Raises:
        AccessError: 403 `scope_not_held`.
    """
    held, wanted = set(held), list(wanted)
    if missing := [scope for scope in wanted if not covers(held, scope)]:
        raise AccessError(f"You do not hold {', '.join(missing)}.", code="scope_not_held", status=403)
    return wanted


def _now() -> datetime:
    return datetime.now(UTC)
