"""What the auth service issues: signed access tokens, refresh tokens and API keys. The only place that signs. Pure."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from jose import jwk, jwt

from headrace.errors import HeadraceError
from headrace.tokens import ALGORITHM, AUDIENCE, ISSUER, KEY_PREFIX, LEEWAY_SECONDS, Principal

REFRESH_PREFIX: Final = "hrr_"

# A new signing key is published this long before it signs, so that every gateway holds it by then.
ROTATION_LEAD: Final = timedelta(minutes=10)

_PEM_BLOCK = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.+?-----END [A-Z ]*PRIVATE KEY-----\n?", re.DOTALL)


@dataclass(frozen=True)
class SigningKey:
    """A P-256 key. Its id is the RFC 7638 thumbprint of its public half."""

    private_pem: str = field(repr=False)
    signs_from: datetime

    @property
    def public_jwk(self) -> dict[str, Any]:
        return _parsed(self.private_pem)[1]

    @property
    def kid(self) -> str:
        return str(self.public_jwk["kid"])

    def sign(self, claims: dict[str, Any]) -> str:
        return jwt.encode(claims, _parsed(self.private_pem)[0], ALGORITHM, headers={"kid": self.kid})


@dataclass(frozen=True)
class Keyring:
    """The keys in force, the one that signs last or later first."""

    keys: tuple[SigningKey, ...]

    def signer(self, now: datetime) -> SigningKey:
        """Return the newest key whose time has come."""
        due = [key for key in self.keys if key.signs_from <= now]
        return max(due, key=lambda key: key.signs_from)

    def jwks(self) -> dict[str, Any]:
        """Return the public halves as a JWK set (RFC 7517): those that sign, will sign, or lately did."""
        return {"keys": [key.public_jwk for key in self.keys]}

    def outlived(self, now: datetime, access_seconds: int) -> tuple[SigningKey, ...]:
        """Return the keys by which no living token is signed any more."""
        signing = self.signer(now)
        overlap = timedelta(seconds=access_seconds + LEEWAY_SECONDS)
        if signing.signs_from + overlap > now:
            return ()
        return tuple(key for key in self.keys if key.signs_from < signing.signs_from)


def new_signing_key(signs_from: datetime) -> SigningKey:
    private = ec.generate_private_key(ec.SECP256R1())
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return SigningKey(pem.decode(), signs_from)


def keyring_of_pem(text: str, now: datetime) -> Keyring:
    """Return the keys of a PEM file: the first signs, and tokens of the others are still accepted.

    Raises:
        HeadraceError: it holds no P-256 private key, or one of another kind.
    """
    blocks = _PEM_BLOCK.findall(text)
    if not blocks:
        raise HeadraceError("The signing key file holds no private key in PEM.")
    keys = tuple(SigningKey(block, now - timedelta(seconds=place)) for place, block in enumerate(blocks))
    for key in keys:
        _parsed(key.private_pem)
    return Keyring(keys)


def sign_access(key: SigningKey, principal: Principal, now: datetime) -> str:
    """Return the principal as an access token, good until its `expires_at`."""
    return key.sign(
        {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": principal.subject,
            "scope": " ".join(sorted(principal.scopes)),
            "iat": int(now.timestamp()),
            "exp": principal.expires_at,
            "jti": principal.token_id,
            "sid": principal.session_id,
        }
    )


def new_refresh_token() -> str:
    return REFRESH_PREFIX + secrets.token_urlsafe(32)


def new_api_key() -> tuple[str, str]:
    """Return the id of a new key and the whole key, which holds the id."""
    key_id = secrets.token_hex(8)
    return key_id, f"{KEY_PREFIX}{key_id}_{secrets.token_urlsafe(32)}"


def api_key_id(key: str) -> str:
    """Return the id within a key of the right shape."""
    return key.removeprefix(KEY_PREFIX).partition("_")[0]


def digest(secret: str) -> bytes:
    """Return what is stored of a random secret: 256 random bits need no slow hash."""
    return hashlib.sha256(secret.encode()).digest()


def ordered(scopes: Iterable[str]) -> list[str]:
    return sorted(set(scopes))


@functools.lru_cache(maxsize=16)
def _parsed(private_pem: str) -> tuple[Any, dict[str, Any]]:
    """Return python-jose's key, whose making costs more than its signing, and the public JWK.

    Raises:
        HeadraceError: not a P-256 private key.
    """
    try:
        private = serialization.load_pem_private_key(private_pem.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise HeadraceError(f"The signing key cannot be read: {error}") from None
    if not isinstance(private, ec.EllipticCurvePrivateKey) or not isinstance(private.curve, ec.SECP256R1):
        raise HeadraceError("A signing key must be on the curve P-256 (openssl ecparam -genkey -name prime256v1).")
    public_pem = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    point = jwk.construct(public_pem.decode(), ALGORITHM).to_dict()
    named = {name: point[name] for name in ("crv", "kty", "x", "y")}
    thumbprint = hashlib.sha256(msgspec.json.encode(named, order="sorted")).digest()
    kid = base64.urlsafe_b64encode(thumbprint).rstrip(b"=").decode()
    return jwk.construct(private_pem, ALGORITHM), {**named, "alg": ALGORITHM, "use": "sig", "kid": kid}
