"""Who is asking and what they may do: access tokens verified with public keys only, and scopes. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec
from jose import jwk, jwt
from jose.backends.base import Key
from jose.exceptions import ExpiredSignatureError

from headrace.errors import AccessError

ALGORITHM: Final = "ES256"
ISSUER: Final = "headrace"
AUDIENCE: Final = "headrace"
MAX_TOKEN_BYTES: Final = 4096
LEEWAY_SECONDS: Final = 10
KEY_PREFIX: Final = "hr_"

PRINCIPAL_HEADER: Final = "Headrace-Principal"
CLIENT_HEADER: Final = "Headrace-Client"

ADMIN: Final = "admin"
NARROWABLE: Final = ("documents:write", "documents:read", "analytics:read")
SCOPES: Final = (*NARROWABLE, "dead:read", "dead:write", ADMIN)
# Keeps a token with every one of them under MAX_TOKEN_BYTES.
MAX_SCOPES: Final = 32

_PIPELINE = "[a-z][a-z0-9_]{0,39}"
_SCOPE = re.compile(rf"(?:{'|'.join(SCOPES)}|(?:{'|'.join(NARROWABLE)}):{_PIPELINE})")
# Strict, since python-jose skips characters that are not base64url; an ES256 signature is always 64 bytes.
_COMPACT_JWS = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{86}")
_API_KEY = re.compile(r"hr_[0-9a-f]{16}_[A-Za-z0-9_-]{43}")

# python-jose checks only what it is told to; see the table of forged tokens in tests/auth.
_OPTIONS: Final = {
    **{f"require_{claim}": True for claim in ("exp", "iat", "sub", "aud", "iss", "jti")},
    "leeway": LEEWAY_SECONDS,
}


class Principal(msgspec.Struct, frozen=True):
    """Who a request acts for.

    Attributes:
        subject: the user's name.
        token_id: `jti` of an access token, or id of an API key.
        session_id: the login that the token descends from; empty for an API key.
        expires_at: seconds since the epoch, after which nothing may remember this principal.
    """

    subject: str
    scopes: frozenset[str]
    token_id: str
    session_id: str
    expires_at: int

    def may(self, action: str, pipeline: str | None = None) -> bool:
        """Return whether the scopes allow an action, such as `documents:write`, on one pipeline or on all."""
        return (
            action in self.scopes
            or ADMIN in self.scopes
            or (pipeline is not None and f"{action}:{pipeline}" in self.scopes)
        )

    @property
    def revocation_keys(self) -> tuple[str, ...]:
        """Return the names under which this principal may have been revoked."""
        if self.session_id:
            return (f"jti.{self.token_id}", f"sid.{self.session_id}")
        return (f"key.{self.token_id}",)

    def encode(self) -> str:
        """Return the value of the `Headrace-Principal` header, one line of ASCII."""
        return msgspec.json.encode(self, order="sorted").decode()


class _Claims(msgspec.Struct):
    sub: str
    scope: str
    jti: str
    sid: str
    exp: int


class TokenVerifier:
    """Verifies access tokens with the keys that the auth service publishes.

    One verification costs about 0.1 ms, so callers remember its result until `expires_at`
    or until the principal is revoked.
    """

    def __init__(self, jwks: Mapping[str, Any]) -> None:
        """Take a JWK set (RFC 7517); keys that are not P-256 with a `kid` are left out."""
        self._keys: dict[str, Key] = {}
        self.replace(jwks)

    @property
    def key_ids(self) -> frozenset[str]:
        return frozenset(self._keys)

    def replace(self, jwks: Mapping[str, Any]) -> None:
        """Trust these keys and no others from now on."""
        self._keys = {
            key["kid"]: jwk.construct(key, ALGORITHM)
            for key in jwks["keys"]
            if key.get("kid") and key.get("kty") == "EC" and key.get("crv") == "P-256"
        }

    def verify(self, token: str) -> Principal:
        """Return who the token speaks for; whether it was revoked is another question.

        Raises:
            AccessError: for whatever else may be wrong, with code `unknown_key` for a key that is
                not held (it may be new), `token_expired`, or `invalid_token`.
        """
        if len(token) > MAX_TOKEN_BYTES or not _COMPACT_JWS.fullmatch(token):
            raise _refused()
        try:
            header = jwt.get_unverified_header(token)
            # RFC 7515: an extension that is not understood must not be ignored; python-jose ignores it.
            if "crit" in header or not isinstance(header.get("kid"), str):
                raise _refused()
            if header["kid"] not in self._keys:
                raise AccessError("The token is signed with a key that is not in use.", code="unknown_key")
            claims = jwt.decode(
                token,
                self._keys[header["kid"]],
                algorithms=[ALGORITHM],
                audience=AUDIENCE,
                issuer=ISSUER,
                options=_OPTIONS,
            )
            known = msgspec.convert(claims, _Claims)
        except AccessError:
            raise
        except ExpiredSignatureError:
            raise AccessError("The token has expired; refresh it.", code="token_expired") from None
        except Exception:
            # Junk makes python-jose raise more than JWTError: RecursionError, AttributeError, TypeError.
            raise _refused() from None
        return Principal(known.sub, frozenset(known.scope.split()), known.jti, known.sid, known.exp)


def is_api_key(credential: str) -> bool:
    """Return whether a bearer credential has the shape of an API key; only the auth service can verify one."""
    return _API_KEY.fullmatch(credential) is not None


def is_scope(text: str) -> bool:
    return _SCOPE.fullmatch(text) is not None


def covers(held: Iterable[str], wanted: str) -> bool:
    """Return whether somebody who holds these scopes may pass on the wanted one."""
    held = frozenset(held)
    base = next((scope for scope in NARROWABLE if wanted.startswith(f"{scope}:")), wanted)
    return ADMIN in held or wanted in held or base in held


def _refused() -> AccessError:
    return AccessError("The token is not one that this Headrace has issued.", code="invalid_token")
