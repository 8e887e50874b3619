"""Passwords changed, users disabled and enabled, the audit read."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from headrace.document import rfc3339
from headrace.errors import HeadraceError
from headrace.revocations import Revocations, watch_revocations
from headrace.tokens import ADMIN, Principal
from tests.auth.system import PASSWORD, Auth, eventually

NEW = "the wheel turns at dawn"
ROOT = Principal("root", frozenset({ADMIN}), "", "", 0)


def change(old: str = PASSWORD, new: str = NEW) -> dict[str, str]:
    return {"old_password": old, "new_password": new}


async def ended(revocations: Revocations, principal: Principal) -> None:
    """Return once a gateway knows that a token is revoked."""

    async def known() -> bool:
        return revocations.is_revoked(principal)

    await eventually(known)


async def test_a_changed_password_ends_every_session_and_only_the_new_one_logs_in(auth: Auth) -> None:
    ada = await auth.newcomer("ada")
    elsewhere = await auth.login("ada")
    key = await auth.ask("keys.create", {"name": "k", "scopes": ["documents:write"]}, acts_for=ada)
    async with watch_revocations(auth.bus, auth.settings.namespace) as revocations:
        await auth.ask("password", change(), acts_for=ada)
        for principal in (ada, await auth.verified(elsewhere["access_token"])):
            await ended(revocations, principal)

    assert (await auth.refused("refresh", {"refresh_token": elsewhere["refresh_token"]})).status == 401
    assert (await auth.refused("token", {"username": "ada", "password": PASSWORD})).code == "invalid_credentials"
    assert await auth.login("ada", NEW)
    # Machines go on: their keys are theirs to lose, one by one.
    assert (await auth.ask("verify_key", {"key": key["key"]}))["subject"] == "ada"


async def test_the_old_password_is_needed_and_may_not_be_guessed_for_ever(auth: Auth) -> None:
    ada = await auth.newcomer("ada")
    wrong = [await auth.refused("password", change("guess again"), acts_for=ada) for _ in range(11)]

    assert [(error.status, error.code) for error in wrong[:10]] == [(403, "wrong_password")] * 10
    assert (wrong[10].status, wrong[10].code) == (429, "too_many_logins")


async def test_a_new_password_has_to_do_and_a_key_cannot_change_it(auth: Auth) -> None:
    ada = await auth.newcomer("ada")
    weak = await auth.refused("password", change(new="password1"), acts_for=ada)
    by_key = await auth.refused("password", change(), acts_for=Principal("ada", frozenset({ADMIN}), "k", "", 2**40))
    nobody = await auth.refused("password", change())

    assert (weak.status, weak.code, weak.errors[0].pointer) == (422, "weak_password", "/new_password")
    assert (by_key.status, by_key.code) == (403, "login_required")
    assert nobody.status == 401


async def test_a_disabled_user_is_out_at_once_and_for_good(auth: Auth) -> None:
    ada = await auth.newcomer("Ada")
    pair = await auth.login("ada")
    key = await auth.ask("keys.create", {"name": "k", "scopes": ["documents:write"]}, acts_for=ada)
    of_key = Principal("Ada", frozenset(), key["id"], "", 2**40)
    async with watch_revocations(auth.bus, auth.settings.namespace) as revocations:
        shown = await auth.ask("users.disable", {"username": "ada"}, acts_for=ROOT)
        for principal in (ada, await auth.verified(pair["access_token"]), of_key):
            await ended(revocations, principal)

    assert shown["disabled_at"]
    login = await auth.refused("token", {"username": "ada", "password": PASSWORD})
    assert (login.status, login.code) == (403, "user_disabled")
    guess = await auth.refused("token", {"username": "ada", "password": "guess again"})
    assert (guess.status, guess.code) == (401, "invalid_credentials")
    assert (await auth.refused("refresh", {"refresh_token": pair["refresh_token"]})).code == "user_disabled"
    assert (await auth.refused("verify_key", {"key": key["key"]})).code == "invalid_key"
    another = {"name": "k2", "scopes": ["documents:write"]}
    assert (await auth.refused("keys.create", another, acts_for=ada)).code == "user_disabled"

    back = await auth.ask("users.enable", {"username": "ada"}, acts_for=ROOT)
    assert back["disabled_at"] is None
    assert (await auth.refused("refresh", {"refresh_token": pair["refresh_token"]})).code == "invalid_refresh_token"
    assert (await auth.refused("verify_key", {"key": key["key"]})).code == "invalid_key"
    async with watch_revocations(auth.bus, auth.settings.namespace) as revocations:
        await revocations.loaded.wait()
        assert not revocations.is_revoked(await auth.verified((await auth.login("ada"))["access_token"]))


async def test_no_session_slips_through_while_a_user_is_being_disabled(auth: Auth) -> None:
    ada = await auth.newcomer("ada")
    pairs = [await auth.login("ada") for _ in range(4)]
    racing: list[Any] = [auth.ask("refresh", {"refresh_token": pair["refresh_token"]}) for pair in pairs]
    racing += [auth.login("ada"), auth.ask("users.disable", {"username": "ada"}, acts_for=ROOT), auth.login("ada")]
    outcomes = await asyncio.gather(*racing, return_exceptions=True)

    assert all(isinstance(one, dict | HeadraceError) for one in outcomes)
    async with watch_revocations(auth.bus, auth.settings.namespace) as revocations:
        for pair in [*pairs, *(one for one in outcomes if isinstance(one, dict) and "access_token" in one)]:
            await ended(revocations, await auth.verified(pair["access_token"]))
            assert (await auth.refused("refresh", {"refresh_token": pair["refresh_token"]})).status in (401, 403)
        await ended(revocations, ada)


@pytest.mark.parametrize("endpoint", ["users.disable", "users.enable", "users.password", "audit"])
async def test_only_an_administrator_may(auth: Auth, endpoint: str) -> None:
    ada = await auth.newcomer("ada")
    body = {} if endpoint == "audit" else {"username": "ada", "password": NEW}

    assert (await auth.refused(endpoint, body)).status == 401
    assert (await auth.refused(endpoint, body, acts_for=ada)).status == 403


async def test_an_administrator_sets_a_password_and_is_told_of_names_that_nobody_has(auth: Auth) -> None:
    await auth.newcomer("ada")
    await auth.ask("users.password", {"username": "ada", "password": NEW}, acts_for=ROOT)

    assert await auth.login("ada", NEW)
    for endpoint, body in (
        ("users.password", {"username": "eve", "password": NEW}),
        ("users.disable", {"username": "eve"}),
    ):
        error = await auth.refused(endpoint, body, acts_for=ROOT)
        assert (error.status, error.code) == (404, "user_not_found")


async def test_the_audit_is_read_by_page_actor_account_action_and_time(auth: Auth) -> None:
    ada = await auth.newcomer("ada")
    await auth.newcomer("bob")
    between = rfc3339(datetime.now(UTC))
    await auth.refused("token", {"username": "bob", "password": "guess again"}, client="10.0.0.7")
    await auth.ask("users.disable", {"username": "bob"}, acts_for=ROOT)
    await auth.ask("password", change(), acts_for=ada)

    async def read(**asked: Any) -> list[dict[str, Any]]:
        answer: dict[str, Any] = await auth.ask("audit", asked, acts_for=ROOT)
        return list(answer["items"])

    everything = await read()
    assert [one["action"] for one in everything] == [
        *("password_changed", "user_disabled", "login_failed"),
        *("logged_in", "registered", "logged_in", "registered"),
    ]
    assert [one["by"] for one in everything[:3]] == ["ada", "root", "bob"]
    assert [one["action"] for one in await read(actor="root")] == ["user_disabled"]
    assert {one["account"] for one in await read(account="bob")} == {"bob"}
    [failed] = await read(action="login_failed")
    assert failed["client"] == "10.0.0.7"
    assert len(await read(since=between)) == 3
    assert len(await read(until=between)) == 4
    assert await read(since=rfc3339(datetime.now(UTC) + timedelta(hours=1))) == []

    paged: list[dict[str, Any]] = []
    cursor = None
    while True:
        answer = await auth.ask("audit", {"limit": 2, "cursor": cursor}, acts_for=ROOT)
        paged += answer["items"]
        if (cursor := answer["next"]) is None:
            break
    assert paged == everything
    assert PASSWORD not in str(everything)
    assert NEW not in str(everything)


@pytest.mark.parametrize(
    "asked", [{"limit": 0}, {"limit": 1001}, {"cursor": "x"}, {"since": "yesterday"}, {"actor": "\x00"}, {"who": "ada"}]
)
async def test_a_question_to_the_audit_that_makes_no_sense_is_refused(auth: Auth, asked: dict[str, Any]) -> None:
    error = await auth.refused("audit", asked, acts_for=ROOT)

    assert (error.status, error.code) == (422, "invalid_request")
