"""Who asks: a token is verified once, then remembered until it expires or is revoked."""

from __future__ import annotations

import asyncio
import time
from typing import Final

import msgspec

from headrace import telemetry
from headrace.errors import AccessError
from headrace.messaging import mesh
from headrace.messaging.connection import Bus
from headrace.revocations import Revocations
from headrace.tokens import Principal, TokenVerifier, is_api_key

# A few hundred bytes each.
_MAX_REMEMBERED: Final = 10_000
_KEYS_SECONDS: Final = 2.0
_BEARER: Final = b"bearer "


class Authenticator:
    def __init__(self, bus: Bus, namespace: str, revocations: Revocations, key_cache_seconds: float) -> None:
        self._bus = bus
        self._namespace = namespace
        self._revocations = revocations
        self._key_cache_seconds = key_cache_seconds
        self._verifier = TokenVerifier({"keys": []})
        self._keys_lock = asyncio.Lock()
        self._keys_asked = 0.0
        # By the header as it came. A digest of it would be a third of what authentication costs each request.
        self._remembered: dict[bytes, tuple[Principal, float]] = {}
        revocations.on_revoked.append(self._forget)

    @property
    def knows_revoked(self) -> bool:
        """Return whether the list of what is revoked has been read; before, no token can be trusted."""
        return self._revocations.loaded.is_set()

    @property
    def has_keys(self) -> bool:
        return bool(self._verifier.key_ids)

    def cached(self, authorization: bytes) -> Principal | None:
        """Return the principal of a token that was verified before; fast, since each request asks."""
        found = self._remembered.get(authorization)
        if found is None or found[1] <= time.monotonic():
            return None
        return found[0]

    async def verify(self, authorization: bytes) -> Principal:
        """Return the principal of a token, and remember it.

        Raises:
            AccessError: 401.
            UnavailableError: the auth service is away, or what is revoked is not known yet.
        """
        try:
            token = _token(authorization)
            principal = await (self._by_auth(token) if is_api_key(token) else self._by_signature(token))
            if self._revocations.is_revoked(principal):
                raise AccessError("The token was revoked.", code="token_revoked")
        except AccessError:
            telemetry.tokens_verified.labels("refused").inc()
            raise
        telemetry.tokens_verified.labels("verified").inc()
        # Monotonic: a clock that is set must neither end nor lengthen what was verified.
        remaining = principal.expires_at - time.time()
        if is_api_key(token):
            remaining = min(remaining, self._key_cache_seconds)
        while len(self._remembered) >= _MAX_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]
        self._remembered[authorization] = (principal, time.monotonic() + remaining)
        return principal

    async def _by_auth(self, key: str) -> Principal:
        reply = await self._ask("verify_key", msgspec.json.encode({"key": key}))
        return msgspec.json.decode(reply.body, type=Principal)

    async def _by_signature(self, token: str) -> Principal:
        try:
            return self._verifier.verify(token)
        except AccessError as error:
            if error.code != "unknown_key":
                raise
        # It may be signed with a key that is newer than ours.
        await self._fetch_keys()
        return self._verifier.verify(token)

    async def _fetch_keys(self) -> None:
        async with self._keys_lock:
            # Forged key ids must not make us ask for each request.
            if self._verifier.key_ids and time.monotonic() - self._keys_asked < _KEYS_SECONDS:
                return
            reply = await self._ask("jwks", b"{}")
            self._keys_asked = time.monotonic()
            self._verifier.replace(msgspec.json.decode(reply.body))

    async def _ask(self, endpoint: str, payload: bytes) -> mesh.Reply:
        return await mesh.ask(self._bus, self._namespace, "auth", endpoint, payload)

    def _forget(self, revoked: str) -> None:
        self._remembered = {
            authorization: (principal, until)
            for authorization, (principal, until) in self._remembered.items()
            if revoked not in principal.revocation_keys
        }


def _token(authorization: bytes) -> str:
    if authorization[:7].lower() != _BEARER or len(authorization) > 4200:
        raise AccessError("The Authorization header is not `Bearer` and a token.", code="invalid_token")
    try:
        return authorization[7:].decode("ascii").strip()
    except UnicodeDecodeError:
        raise AccessError("The token is not ASCII.", code="invalid_token") from None
