"""Signing keys and what is made with them; pure."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from auth.tokens import (
    Keyring,
    SigningKey,
    api_key_id,
    keyring_of_pem,
    new_api_key,
    new_refresh_token,
    new_signing_key,
    sign_access,
)
from headrace.errors import HeadraceError
from headrace.tokens import LEEWAY_SECONDS, Principal, TokenVerifier, is_api_key

NOW = datetime.now(UTC).replace(microsecond=0)
FIRST, SECOND, THIRD = (new_signing_key(NOW + timedelta(hours=hours)) for hours in (-2, -1, 1))


def pem_of(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey,
    form: serialization.PrivateFormat = serialization.PrivateFormat.PKCS8,
) -> str:
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()


def principal() -> Principal:
    return Principal("ada", frozenset({"documents:write", "analytics:read"}), "t", "s", int(NOW.timestamp()) + 86400)


def test_what_is_signed_comes_back_as_the_same_principal() -> None:
    token = sign_access(FIRST, principal(), NOW)

    assert TokenVerifier(Keyring((FIRST,)).jwks()).verify(token) == principal()


def test_published_keys_hold_no_private_part() -> None:
    (key,) = Keyring((FIRST,)).jwks()["keys"]

    assert set(key) == {"kty", "crv", "x", "y", "alg", "use", "kid"}


def test_a_signing_key_never_shows_itself() -> None:
    assert "PRIVATE" not in repr(FIRST)
    assert "PRIVATE" not in repr(Keyring((FIRST,)))


def test_the_newest_key_whose_time_has_come_signs_and_all_are_published() -> None:
    keyring = Keyring((THIRD, SECOND, FIRST))

    assert keyring.signer(NOW) == SECOND
    assert keyring.signer(NOW + timedelta(hours=2)) == THIRD
    assert {key["kid"] for key in keyring.jwks()["keys"]} == {FIRST.kid, SECOND.kid, THIRD.kid}


def test_an_old_key_stays_as_long_as_a_token_of_it_may_live() -> None:
    keyring = Keyring((SECOND, FIRST))
    taken_over = SECOND.signs_from
    last_token_dies = taken_over + timedelta(seconds=900 + LEEWAY_SECONDS)

    assert keyring.outlived(taken_over, 900) == ()
    assert keyring.outlived(last_token_dies - timedelta(seconds=1), 900) == ()
    assert keyring.outlived(last_token_dies, 900) == (FIRST,)


def test_of_the_keys_in_a_file_the_first_signs_and_all_verify() -> None:
    keyring = keyring_of_pem(f"# since March\n{FIRST.private_pem}\n{SECOND.private_pem}", NOW)

    assert keyring.signer(NOW).kid == FIRST.kid
    assert TokenVerifier(keyring.jwks()).verify(sign_access(SECOND, principal(), NOW))


def test_a_key_as_openssl_writes_it_will_do() -> None:
    key = ec.generate_private_key(ec.SECP256R1())

    assert keyring_of_pem(pem_of(key, serialization.PrivateFormat.TraditionalOpenSSL), NOW).keys


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no key",
        FIRST.private_pem.replace("PRIVATE", "PUBLIC"),
        pem_of(ec.generate_private_key(ec.SECP384R1())),
        pem_of(rsa.generate_private_key(65537, 2048)),
        "-----BEGIN PRIVATE KEY-----\nbm90IGEga2V5\n-----END PRIVATE KEY-----\n",
    ],
    ids=["empty", "words", "public", "P-384", "RSA", "junk"],
)
def test_a_file_without_a_p256_private_key_is_refused(text: str) -> None:
    with pytest.raises(HeadraceError):
        keyring_of_pem(text, NOW)


def test_a_kid_is_the_rfc_7638_thumbprint_so_other_libraries_find_the_same() -> None:
    # The private key of RFC 7515, appendix A.3.
    scalar = base64.urlsafe_b64decode("jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI=")
    key = ec.derive_private_key(int.from_bytes(scalar), ec.SECP256R1())

    assert SigningKey(pem_of(key), NOW).kid == "oKIywvGUpTVTyxMQ3bwIIeQUudfr_CkLMjCE19ECD-U"


def test_api_keys_hold_their_id_and_have_a_shape_of_their_own() -> None:
    key_id, key = new_api_key()

    assert is_api_key(key)
    assert api_key_id(key) == key_id
    assert not is_api_key(new_refresh_token())
    assert not is_api_key(sign_access(FIRST, principal(), NOW))
    assert not is_api_key(key + "x")
    assert not is_api_key("")
