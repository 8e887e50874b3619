"""Who is signed in to the pages: a cookie with a random secret, and tokens that only this secret can open.

The tokens lie in a NATS key-value bucket, so any gateway serves any session; under the secret's digest, and sealed with
the secret, so who reads the bucket can neither use them nor tell whose they are. The cookie never holds a token.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec
import nats.errors
import nats.js.errors
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from nats.js.api import KeyValueConfig
from nats.js.kv import KeyValue

from gateway.door import Door
from headrace import telemetry
from headrace.errors import AccessError, HeadraceError, UnavailableError
from headrace.tokens import Principal

log = telemetry.logger(__name__)

_SECRET: Final = re.compile(r"[A-Za-z0-9_-]{43}")
# A token that ends while its request runs would be refused further on.
_EARLY_SECONDS: Final = 15
_BUCKET_SECONDS: Final = 2.0
_POLL_SECONDS: Final = 0.05
_BUCKET_BYTES: Final = 32 << 20


class SignedOutError(AccessError):
    """There is no session; a page sends its reader to the sign-in."""

    default_code = "signed_out"


class Tokens(msgspec.Struct):
    """What auth answers to a login or a refresh."""

    access_token: str
    expires_in: int
    refresh_token: str


class _Kept(msgspec.Struct):
    """What lies in the bucket, sealed.

    Attributes:
        refreshed_until: until when another request has the word to refresh it; a refresh token is good for one use.
    """

    access_token: str
    refresh_token: str
    expires_at: float
    refreshed_until: float = 0.0


@dataclass(frozen=True)
class Session:
    """Somebody who is signed in."""

    principal: Principal
    secret: str = field(repr=False)
    access_token: str = field(repr=False)

    @property
    def authorization(self) -> bytes:
        """Return the header that the API takes for it."""
        return _bearer(self.access_token)

    @property
    def csrf(self) -> str:
        return csrf_of(self.secret)


class Sessions:
    def __init__(self, door: Door) -> None:
        self._door = door
        self._opened: KeyValue | None = None
        limits = door.settings.gateway
        secure = limits.secure_cookies or limits.tls_certificate is not None
        # A browser takes the prefix __Host- only from TLS, and then lets no other host or path set it.
        prefix = "__Host-" if secure else ""
        self.cookie = f"{prefix}headrace_session"
        self.visitor_cookie = f"{prefix}headrace_visitor"
        self._attributes = f"Path=/; HttpOnly; SameSite=Strict{'; Secure' if secure else ''}"

    def set_cookie(self, name: str, value: str) -> str:
        """Return a Set-Cookie header; an empty value makes the browser forget."""
        gone = "" if value else "; Max-Age=0"
        return f"{name}={value}; {self._attributes}{gone}"

    async def begin(self, tokens: Tokens) -> str:
        """Keep the tokens of a login, and return the secret that belongs into the cookie.

        Raises:
            UnavailableError: NATS is away.
        """
        secret = new_secret()
        kept = _Kept(tokens.access_token, tokens.refresh_token, time.time() + tokens.expires_in)
        try:
            await (await self._bucket()).put(_name(secret), _sealed(secret, kept))
        except (nats.errors.Error, TimeoutError) as error:
            # Should somebody have removed the bucket, the next sign-in makes it anew.
            self._opened = None
            raise _away(error) from None
        return secret

    async def of(self, cookies: Mapping[str, str]) -> Session:
        """Return the session of a request.

        Raises:
            SignedOutError: there is none, it is over, or it was revoked.
            UnavailableError: nobody can say now.
        """
        secret = secret_in(cookies, self.cookie)
        if secret is None:
            raise SignedOutError("Sign in first.")
        try:
            kept = await self._fresh(secret)
        except (nats.errors.Error, TimeoutError) as error:
            raise _away(error) from None
        try:
            principal = await self._door.principal(_bearer(kept.access_token))
        except AccessError:
            await self._forget(secret)
            raise _over() from None
        return Session(principal, secret, kept.access_token)

    async def end(self, session: Session) -> None:
        """End a session for good: its tokens are revoked at every gateway, and forgotten.

        Raises:
            UnavailableError: NATS is away, so it may live on.
        """
        try:
            kept, _ = await self._read(session.secret)
            await self._door.ask("auth", "revoke", {"token": kept.refresh_token})
        except SignedOutError:
            pass
        except UnavailableError as error:
            # They lay here and nowhere else, so without this entry nobody has them.
            log.warning("session_not_revoked", subject=session.principal.subject, code=error.code)
        await self._forget(session.secret)

    async def _fresh(self, secret: str) -> _Kept:
        """Return tokens that are good for a while; of the requests that find them old, one trades them in."""
        deadline = time.monotonic() + self._door.settings.nats.request_timeout_seconds
        while True:
            kept, revision = await self._read(secret)
            now = time.time()
            if kept.expires_at > now + _EARLY_SECONDS:
                return kept
            if kept.refreshed_until <= now:
                until = now + self._door.settings.nats.request_timeout_seconds + 1
                mine = msgspec.structs.replace(kept, refreshed_until=until)
                revision_of_mine = await self._replace(secret, mine, revision)
                if revision_of_mine is not None:
                    return await self._refreshed(secret, kept, revision_of_mine)
            if time.monotonic() > deadline:
                raise UnavailableError(
                    "Your session is being renewed; try again.", code="session_busy", retry_after_seconds=2
                )
            await asyncio.sleep(_POLL_SECONDS)

    async def _refreshed(self, secret: str, old: _Kept, revision: int) -> _Kept:
        try:
            reply = await self._door.ask("auth", "refresh", {"refresh_token": old.refresh_token})
        except AccessError:
            await self._forget(secret)
            raise _over() from None
        except HeadraceError:
            await self._replace(secret, old, revision)
            raise
        tokens = msgspec.json.decode(reply.body, type=Tokens)
        kept = _Kept(tokens.access_token, tokens.refresh_token, time.time() + tokens.expires_in)
        if await self._replace(secret, kept, revision) is None:
            # It was ended meanwhile, and must stay so.
            await self._door.ask("auth", "revoke", {"token": kept.refresh_token})
            raise _over()
        return kept

    async def _read(self, secret: str) -> tuple[_Kept, int]:
        try:
            entry = await (await self._bucket()).get(_name(secret))
        except nats.js.errors.KeyNotFoundError:
            raise _over() from None
        kept = _unsealed(secret, entry.value or b"")
        if kept is None or entry.revision is None:
            raise _over()
        return kept, entry.revision

    async def _replace(self, secret: str, kept: _Kept, revision: int) -> int | None:
        """Return the new revision; None where the entry is another by now."""
        try:
            return await (await self._bucket()).update(_name(secret), _sealed(secret, kept), last=revision)
        except nats.js.errors.KeyWrongLastSequenceError:
            return None

    async def _forget(self, secret: str) -> None:
        try:
            await (await self._bucket()).delete(_name(secret))
        except (nats.errors.Error, TimeoutError) as error:
            raise _away(error) from None

    async def _bucket(self) -> KeyValue:
        if not self._door.bus.connected:
            raise UnavailableError("The message bus is away.", code="nats_unavailable", retry_after_seconds=2)
        if self._opened is None:
            settings = self._door.settings
            stream = self._door.bus.client.jetstream(timeout=_BUCKET_SECONDS)
            config = KeyValueConfig(
                bucket=f"{settings.namespace}sessions",
                ttl=settings.gateway.session_seconds,
                history=1,
                max_bytes=_BUCKET_BYTES,
                replicas=settings.nats.replicas,
            )
            try:
                self._opened = await stream.create_key_value(config)
            except nats.js.errors.BadRequestError:
                # It is there with another life or other replicas.
                info = await stream.stream_info(f"KV_{config.bucket}")
                wanted = info.config.evolve(max_age=config.ttl, num_replicas=config.replicas)
                await stream.update_stream(wanted)
                self._opened = await stream.key_value(config.bucket)
        return self._opened


def _bearer(token: str) -> bytes:
    return b"Bearer " + token.encode()


def new_secret() -> str:
    return secrets.token_urlsafe(32)


def secret_in(cookies: Mapping[str, str], name: str) -> str | None:
    """Return the secret in a cookie, or None where there is none of the right shape."""
    found = cookies.get(name, "")
    return found if _SECRET.fullmatch(found) else None


def csrf_of(secret: str) -> str:
    """Return the token that forms of a session hold; whoever sees it cannot tell the secret."""
    return hashlib.blake2b(b"csrf", key=secret.encode(), digest_size=24).hexdigest()


def is_csrf_of(secret: str, given: str) -> bool:
    return hmac.compare_digest(csrf_of(secret).encode(), given.encode())


def _name(secret: str) -> str:
    return hashlib.blake2b(b"name", key=secret.encode(), digest_size=24).hexdigest()


def _cipher(secret: str) -> AESGCM:
    return AESGCM(hashlib.blake2b(b"seal", key=secret.encode(), digest_size=32).digest())


def _sealed(secret: str, kept: _Kept) -> bytes:
    nonce = secrets.token_bytes(12)
    return nonce + _cipher(secret).encrypt(nonce, msgspec.json.encode(kept), None)


def _unsealed(secret: str, sealed: bytes) -> _Kept | None:
    try:
        return msgspec.json.decode(_cipher(secret).decrypt(sealed[:12], sealed[12:], None), type=_Kept)
    except (InvalidTag, ValueError):
        return None


def _over() -> SignedOutError:
    return SignedOutError("Your session is over; sign in again.", code="session_over")


def _away(error: BaseException) -> UnavailableError:
    return UnavailableError(
        f"The sessions cannot be reached ({type(error).__name__}).", code="nats_unavailable", retry_after_seconds=2
    )
