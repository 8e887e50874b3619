"""What the door makes of a bearer token: nothing that was not issued here ever passes, or raises anything but 401."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from jose import jwk

from auth.tokens import Keyring, SigningKey, new_signing_key, sign_access
from headrace.errors import AccessError
from headrace.tokens import LEEWAY_SECONDS, MAX_SCOPES, MAX_TOKEN_BYTES, SCOPES, Principal, TokenVerifier, covers

KEY = new_signing_key(datetime.fromtimestamp(0, UTC))
OTHER = new_signing_key(datetime.fromtimestamp(0, UTC))
VERIFIER = TokenVerifier(Keyring((KEY,)).jwks())


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def good_claims(**changes: Any) -> dict[str, Any]:
    """Return claims that pass; a change to None leaves that claim out."""
    now = int(time.time())
    claims = {
        "iss": "headrace",
        "aud": "headrace",
        "sub": "ada",
        "scope": "documents:write",
        "iat": now,
        "exp": now + 86400,
        "jti": "t1",
        "sid": "s1",
        **changes,
    }
    return {name: value for name, value in claims.items() if value is not None}


def signed(header: object, claims: object, key: SigningKey = KEY) -> str:
    """Return a token with a true ES256 signature over whatever header and claims."""
    text = f"{b64(json.dumps(header).encode())}.{b64(json.dumps(claims).encode())}"
    return f"{text}.{b64(jwk.construct(key.private_pem, 'ES256').sign(text.encode()))}"


def header(**changes: Any) -> dict[str, Any]:
    return {"alg": "ES256", "typ": "JWT", "kid": KEY.kid, **changes}


def hmac_signed(secret: bytes, alg: str = "HS256") -> str:
    text = f"{b64(json.dumps(header(alg=alg)).encode())}.{b64(json.dumps(good_claims()).encode())}"
    return f"{text}.{b64(hmac.new(secret, text.encode(), hashlib.sha256).digest())}"


def public_pem() -> bytes:
    private = serialization.load_pem_private_key(KEY.private_pem.encode(), None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    return private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


GOOD = signed(header(), good_claims())
GOOD_HEADER, GOOD_CLAIMS, GOOD_SIGNATURE = GOOD.split(".")

NESTED = b64(b'{"a":' * 500)

FORGED = {
    "empty": "",
    "blank": " ",
    "one dot": ".",
    "two dots": "..",
    "words": "let me in please",
    "not ascii": "привет.мир.🔑",
    "nul": f"{GOOD}\x00",
    "a line after it": f"{GOOD}\n",
    "padding": f"{GOOD}=",
    "junk that base64 would skip": f"{GOOD_HEADER}.{GOOD_CLAIMS}.!{GOOD_SIGNATURE}",
    "four parts": f"{GOOD}.{GOOD_SIGNATURE}",
    "8 KB": "e" * 8192,
    "8 KB with three parts": f"{GOOD_HEADER}.{'e' * 8192}.{GOOD_SIGNATURE}",
    "no signature": f"{GOOD_HEADER}.{GOOD_CLAIMS}.",
    "signature of nothing": f"{GOOD_HEADER}.{GOOD_CLAIMS}.{'A' * 86}",
    "claims exchanged": f"{GOOD_HEADER}.{b64(json.dumps(good_claims(sub='root')).encode())}.{GOOD_SIGNATURE}",
    "alg none": f"{b64(json.dumps(header(alg='none')).encode())}.{GOOD_CLAIMS}.",
    "alg none, signature kept": f"{b64(json.dumps(header(alg='none')).encode())}.{GOOD_CLAIMS}.{GOOD_SIGNATURE}",
    "alg missing": signed({"kid": KEY.kid}, good_claims()),
    "alg null": signed(header(alg=None), good_claims()),
    "alg a number": signed(header(alg=7), good_claims()),
    "alg a list": signed(header(alg=["ES256"]), good_claims()),
    "alg RS256": signed(header(alg="RS256"), good_claims()),
    "alg ES384": signed(header(alg="ES384"), good_claims()),
    "HS256 with the public key": hmac_signed(public_pem()),
    "HS256 with an empty key": hmac_signed(b""),
    "ES256 in name, HMAC in fact": hmac_signed(public_pem(), alg="ES256"),
    "kid missing": signed({"alg": "ES256"}, good_claims()),
    "kid unknown": signed(header(kid="another"), good_claims()),
    "kid a path": signed(header(kid="../../etc/passwd"), good_claims()),
    "kid a number": signed(header(kid=1), good_claims()),
    "kid an object": signed(header(kid={"a": 1}), good_claims()),
    "another's key under our kid": signed(header(), good_claims(), OTHER),
    "another's key brought along": signed(header(kid=OTHER.kid, jwk=OTHER.public_jwk), good_claims(), OTHER),
    "critical extension": signed(header(crit=["b64"], b64=False), good_claims()),
    "header a list": signed([], good_claims()),
    "header a number": signed(1, good_claims()),
    "header nested": f"{b64(b'[' * 2000)}.{GOOD_CLAIMS}.{GOOD_SIGNATURE}",
    "header nested in an object": f"{NESTED}.{GOOD_CLAIMS}.{GOOD_SIGNATURE}",
    "header not JSON": f"{b64(b'hello')}.{GOOD_CLAIMS}.{GOOD_SIGNATURE}",
    "header not UTF-8": f"{b64(bytes(range(128, 256)))}.{GOOD_CLAIMS}.{GOOD_SIGNATURE}",
    "claims a list": signed(header(), ["sub"]),
    "claims a text": signed(header(), "sub"),
    "claims null": signed(header(), None),
    **{f"no {claim}": signed(header(), good_claims(**{claim: None})) for claim in good_claims()},
    "expired": signed(header(), good_claims(exp=int(time.time()) - LEEWAY_SECONDS - 1)),
    "exp a text": signed(header(), good_claims(exp="tomorrow")),
    "exp a list": signed(header(), good_claims(exp=[])),
    "exp beyond all": signed(header(), good_claims(exp=1e400)),
    "iat a text": signed(header(), good_claims(iat="now")),
    "not yet": signed(header(), good_claims(nbf=int(time.time()) + 86400)),
    "wrong aud": signed(header(), good_claims(aud="elsewhere")),
    "aud an object": signed(header(), good_claims(aud={"headrace": 1})),
    "wrong iss": signed(header(), good_claims(iss="elsewhere")),
    "iss a list": signed(header(), good_claims(iss=["headrace"])),
    "sub a number": signed(header(), good_claims(sub=7)),
    "jti a number": signed(header(), good_claims(jti=7)),
    "sid a number": signed(header(), good_claims(sid=7)),
    "scope a list": signed(header(), good_claims(scope=["admin"])),
}


@pytest.mark.parametrize("token", FORGED.values(), ids=FORGED.keys())
def test_what_was_not_issued_here_is_refused(token: str) -> None:
    with pytest.raises(AccessError) as refusal:
        VERIFIER.verify(token)

    assert refusal.value.status == 401


def test_the_token_that_the_forgeries_start_from_passes() -> None:
    principal = VERIFIER.verify(GOOD)

    assert (principal.subject, principal.token_id, principal.session_id) == ("ada", "t1", "s1")
    assert principal.scopes == {"documents:write"}


@given(st.text(max_size=200) | st.binary(max_size=200).map(b64) | st.just(GOOD).map(lambda t: t[:-1] + "!"))
def test_no_text_raises_anything_but_401(text: str) -> None:
    for token in (text, f"{text}.{GOOD_CLAIMS}.{GOOD_SIGNATURE}", f"{GOOD_HEADER}.{text}.{GOOD_SIGNATURE}"):
        with pytest.raises(AccessError):
            VERIFIER.verify(token)


def test_a_clock_that_is_a_little_off_is_forgiven() -> None:
    assert LEEWAY_SECONDS <= 30
    assert VERIFIER.verify(signed(header(), good_claims(exp=int(time.time()) - LEEWAY_SECONDS // 2)))


@pytest.mark.parametrize(
    ("token", "code"),
    [
        (FORGED["expired"], "token_expired"),
        (FORGED["kid unknown"], "unknown_key"),
        (FORGED["wrong aud"], "invalid_token"),
    ],
)
def test_the_code_says_whether_to_refresh_or_to_fetch_keys(token: str, code: str) -> None:
    with pytest.raises(AccessError) as refusal:
        VERIFIER.verify(token)

    assert refusal.value.code == code


def test_replaced_keys_are_trusted_at_once_and_the_old_no_more() -> None:
    verifier = TokenVerifier(Keyring((KEY,)).jwks())

    verifier.replace(Keyring((OTHER,)).jwks())

    assert verifier.verify(signed(header(kid=OTHER.kid), good_claims(), OTHER))
    with pytest.raises(AccessError):
        verifier.verify(GOOD)


def test_only_p256_keys_with_a_name_are_taken() -> None:
    symmetric = {"kty": "oct", "k": b64(b"secret" * 8), "kid": "hs"}
    nameless = {**KEY.public_jwk, "kid": ""}

    assert TokenVerifier({"keys": [symmetric, nameless]}).key_ids == frozenset()


def test_a_token_with_every_scope_it_may_hold_fits() -> None:
    widest = frozenset(f"documents:write:{'p' * 38}{n:02d}" for n in range(MAX_SCOPES))
    now = datetime.now(UTC)
    principal = Principal("a" * 64, widest, "0" * 36, "0" * 36, int(now.timestamp()) + 60)

    token = sign_access(KEY, principal, now)

    assert len(token) <= MAX_TOKEN_BYTES
    assert VERIFIER.verify(token) == principal


@pytest.mark.parametrize(
    ("scopes", "action", "pipeline", "allowed"),
    [
        ("documents:write", "documents:write", "invoices", True),
        ("documents:write", "documents:write", None, True),
        ("documents:write", "documents:read", "invoices", False),
        ("documents:write:invoices", "documents:write", "invoices", True),
        ("documents:write:invoices", "documents:write", "searches", False),
        ("documents:write:invoices", "documents:write", "invoices2", False),
        ("documents:write:invoices", "documents:write", None, False),
        ("documents:write:invoices", "documents:read", "invoices", False),
        ("documents:read analytics:read:searches", "analytics:read", "searches", True),
        ("dead:read", "dead:write", None, False),
        ("admin", "dead:write", None, True),
        ("admin", "documents:write", "invoices", True),
        ("admin:invoices", "documents:write", "invoices", False),
        ("", "documents:read", None, False),
    ],
)
def test_scopes_allow_what_they_name(scopes: str, action: str, pipeline: str | None, allowed: bool) -> None:
    assert Principal("ada", frozenset(scopes.split()), "t", "s", 0).may(action, pipeline) is allowed


@pytest.mark.parametrize(
    ("held", "wanted", "covered"),
    [
        ("documents:write", "documents:write:invoices", True),
        ("documents:write:invoices", "documents:write:invoices", True),
        ("documents:write:invoices", "documents:write", False),
        ("documents:write:invoices", "documents:write:searches", False),
        ("documents:write", "documents:read:invoices", False),
        ("documents:write documents:read", "admin", False),
        ("admin", "dead:write", True),
        ("dead:read", "dead:read", True),
    ],
)
def test_scopes_are_passed_on_whole_or_narrower(held: str, wanted: str, covered: bool) -> None:
    assert covers(held.split(), wanted) is covered


@pytest.mark.parametrize("scope", SCOPES)
def test_an_administrator_may_all(scope: str) -> None:
    assert Principal("root", frozenset({"admin"}), "t", "s", 0).may(scope, "invoices")
