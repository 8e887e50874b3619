"""/v1/auth: what clients send reaches auth as it means it, and what auth answers reaches clients as it is."""

from __future__ import annotations

from typing import Any

import pytest

from headrace.errors import AccessError
from headrace.messaging.mesh import Reply
from tests.gateway.system import Gateway

TOKENS = {"access_token": "a", "token_type": "bearer", "expires_in": 900, "refresh_token": "r", "scope": "x"}


@pytest.mark.parametrize(
    ("options", "endpoint", "payload"),
    [
        pytest.param(
            {"data": {"grant_type": "password", "username": "ada", "password": "p w+%", "scope": "a b"}},
            "token",
            {"username": "ada", "password": "p w+%", "scope": "a b"},
            id="form",
        ),
        pytest.param(
            {"data": {"username": "ада", "password": ""}},
            "token",
            {"username": "ада", "password": ""},
            id="form without a grant type",
        ),
        pytest.param(
            {"json": {"username": "ada", "password": "p"}}, "token", {"username": "ada", "password": "p"}, id="JSON"
        ),
        pytest.param(
            {"data": {"grant_type": "refresh_token", "refresh_token": "r0"}},
            "refresh",
            {"refresh_token": "r0"},
            id="form with a refresh token",
        ),
    ],
)
async def test_a_login_reaches_auth(
    gateway: Gateway, options: dict[str, Any], endpoint: str, payload: dict[str, Any]
) -> None:
    body = gateway.auth.says(endpoint, TOKENS, headers={"Cache-Control": "no-store"})
    status, answer, headers = await gateway.ask("POST", "/v1/auth/token", **options)

    assert (status, answer, headers["Cache-Control"]) == (200, body, "no-store")
    assert headers["Content-Type"] == "application/json"
    asked, told = gateway.auth.last(endpoint)
    assert asked == payload
    assert told["Headrace-Client"] == "127.0.0.1"
    assert "Headrace-Principal" not in told


@pytest.mark.parametrize(
    ("method", "path", "body", "endpoint", "payload", "reply"),
    [
        (
            "POST",
            "/v1/auth/register",
            b'{"username": "ada" }',
            "register",
            {"username": "ada"},
            Reply(b'{"a":1.0}', 201),
        ),
        ("POST", "/v1/auth/refresh", b'{"refresh_token":"r"}', "refresh", {"refresh_token": "r"}, Reply(b"{}", 200)),
        ("POST", "/v1/auth/revoke", b'{"token":"r"}', "revoke", {"token": "r"}, Reply(b"", 204)),
        ("POST", "/v1/auth/keys", b'{"name":"n"}', "keys.create", {"name": "n"}, Reply(b'{"key":"k"}', 201)),
        ("GET", "/v1/auth/keys", None, "keys.list", {}, Reply(b"[ ]", 200)),
        ("GET", "/v1/auth/me", None, "me", {}, Reply(b"{}", 200)),
        ("DELETE", "/v1/auth/keys/a%20b", None, "keys.delete", {"id": "a b"}, Reply(b"", 204)),
    ],
)
async def test_a_request_and_its_answer_pass_unchanged(
    gateway: Gateway, method: str, path: str, body: bytes | None, endpoint: str, payload: dict[str, Any], reply: Reply
) -> None:
    gateway.auth.answers[endpoint] = reply
    headers = {"Content-Type": "application/json; charset=utf-8"} if body else {}
    status, answer, _ = await gateway.ask(method, path, key=gateway.key(), data=body, headers=headers)

    assert (status, answer) == (reply.status, reply.body)
    assert gateway.auth.last(endpoint)[0] == payload


async def test_a_wrong_password_is_a_401_that_names_the_scheme(gateway: Gateway) -> None:
    gateway.auth.answers["token"] = AccessError("The username or the password is wrong.", code="invalid_credentials")
    status, problem, headers = await gateway.problem("POST", "/v1/auth/token", json={"username": "a", "password": "b"})

    assert (status, problem["code"]) == (401, "invalid_credentials")
    assert headers["WWW-Authenticate"].startswith("Bearer")


async def test_a_body_that_is_not_json_is_for_auth_to_refuse(gateway: Gateway) -> None:
    gateway.auth.says("register", {})
    asked = len(gateway.auth.asked)
    await gateway.ask("POST", "/v1/auth/register", data=b'{"username', headers={"Content-Type": "application/json"})

    # The stand-in could not decode it, which is what auth would answer 400 to.
    assert len(gateway.auth.asked) == asked
