"""Registering and logging in."""

from __future__ import annotations

import asyncio

import pytest

from auth.service import run
from headrace.errors import HeadraceError
from headrace.settings import Settings
from headrace.tokens import Principal
from tests.auth.system import DEADLINE_SECONDS, PASSWORD, Auth, running, with_auth


async def test_a_registered_user_may_write_read_and_analyse(auth: Auth) -> None:
    answer = await auth.ask("register", {"username": "ada", "password": PASSWORD})

    assert answer == {"username": "ada", "scopes": ["analytics:read", "documents:read", "documents:write"]}


async def test_a_login_gives_a_token_that_the_public_key_verifies(auth: Auth) -> None:
    await auth.register("ada")

    answer = await auth.login("ada")
    principal = await auth.verified(answer["access_token"])

    assert answer["token_type"] == "bearer"
    assert answer["expires_in"] == auth.settings.auth.access_seconds
    assert answer["scope"] == "analytics:read documents:read documents:write"
    assert principal.subject == "ada"
    assert principal.scopes == set(answer["scope"].split())


async def test_the_name_is_found_whatever_its_case_and_told_as_registered(auth: Auth) -> None:
    await auth.register("Ada")

    principal = await auth.verified((await auth.login("aDA"))["access_token"])

    assert principal.subject == "Ada"


@pytest.mark.parametrize("again", ["ada", "ADA"])
async def test_a_name_is_given_once(auth: Auth, again: str) -> None:
    await auth.register("ada")

    error = await auth.refused("register", {"username": again, "password": PASSWORD})

    assert (error.status, error.code) == (409, "username_taken")


async def test_of_two_who_register_a_name_at_once_one_gets_it(auth: Auth) -> None:
    tries = [auth.register("ada") for _ in range(4)]
    outcomes = await asyncio.gather(*tries, return_exceptions=True)

    assert outcomes.count(None) == 1
    assert {error.code for error in outcomes if isinstance(error, HeadraceError)} == {"username_taken"}


async def test_what_is_malformed_or_weak_is_refused_at_its_field(auth: Auth) -> None:
    bad: list[tuple[object, int, str, str]] = [
        (b"not json", 400, "malformed_json", ""),
        (b"", 400, "malformed_json", ""),
        (b'{"username": "ada", "password": "\\ud800 and more"}', 400, "malformed_json", ""),
        ([], 422, "invalid_request", ""),
        ({}, 422, "invalid_request", "/username"),
        ({"username": "ada"}, 422, "invalid_request", "/password"),
        ({"username": 7, "password": PASSWORD}, 422, "invalid_request", "/username"),
        ({"username": "", "password": PASSWORD}, 422, "invalid_request", "/username"),
        ({"username": "a da", "password": PASSWORD}, 422, "invalid_request", "/username"),
        ({"username": "ada\n", "password": PASSWORD}, 422, "invalid_request", "/username"),
        ({"username": "ada\x00", "password": PASSWORD}, 422, "invalid_request", "/username"),
        ({"username": "a" * 65, "password": PASSWORD}, 422, "invalid_request", "/username"),
        ({"username": "аdа", "password": PASSWORD}, 422, "invalid_request", "/username"),
        ({"username": "ada", "password": PASSWORD, "scopes": ["admin"]}, 422, "invalid_request", "/scopes"),
        ({"username": "ada", "password": "short"}, 422, "weak_password", "/password"),
        ({"username": "ada", "password": "x" * 5000}, 422, "weak_password", "/password"),
        ({"username": "ada", "password": "a mill\x00needs water"}, 422, "weak_password", "/password"),
    ]
    for body, status, code, pointer in bad:
        error = await auth.refused("register", body)
        assert (error.status, error.code, error.errors[0].pointer) == (status, code, pointer), body


async def test_a_refusal_never_repeats_the_password(auth: Auth) -> None:
    error = await auth.refused("register", {"username": "no good", "password": "hush-hush-hush", "more": "hush"})

    assert "hush" not in f"{error.detail} {error.errors}"


async def test_wrong_credentials_are_refused_alike(auth: Auth) -> None:
    await auth.register("ada")
    wrong = [
        ("ada", "another password"),
        ("nobody", PASSWORD),
        ("ada", ""),
        ("ada", "x" * 100_000),
        ("ada", f"{PASSWORD}\x00"),
        ("ada", "пароль🔑" * 9),
        ("ada\x00", PASSWORD),
        ("x" * 100_000, PASSWORD),
        ("%", PASSWORD),
    ]
    for username, password in wrong:
        error = await auth.refused("token", {"username": username, "password": password})
        assert (error.status, error.code) == (401, "invalid_credentials")
        assert error.detail == "The username or the password is wrong."


@pytest.mark.parametrize(
    "password", ["пароль на мельницу", "🔑🚪🌊🌾🍞 water", "\u212bngstr\u00f6m unit", "water " * 170]
)
async def test_any_text_of_sane_length_is_a_password(auth: Auth, password: str) -> None:
    await auth.register("ada", password)

    assert await auth.login("ada", password)


async def test_a_password_typed_with_combining_characters_is_the_same(auth: Auth) -> None:
    await auth.register("ada", "caf\u00e9 au moulin")

    assert await auth.login("ada", "cafe\u0301 au moulin")


async def test_a_login_may_ask_for_fewer_scopes(auth: Auth) -> None:
    await auth.register("ada")

    answer = await auth.login("ada", scope="documents:write:invoices analytics:read")

    assert answer["scope"] == "analytics:read documents:write:invoices"


@pytest.mark.parametrize(
    ("scope", "status", "code"),
    [("admin", 403, "scope_not_held"), ("dead:read", 403, "scope_not_held"), ("everything", 422, "invalid_scope")],
)
async def test_a_login_cannot_ask_for_more(auth: Auth, scope: str, status: int, code: str) -> None:
    await auth.register("ada")

    error = await auth.refused("token", {"username": "ada", "password": PASSWORD, "scope": scope})

    assert (error.status, error.code) == (status, code)


@pytest.mark.parametrize("username", ["ada", "nobody"])
async def test_failed_logins_close_an_account_for_a_while_whether_it_exists_or_not(
    settings: Settings, username: str
) -> None:
    async with running(with_auth(settings, login_attempts=3)) as auth:
        await auth.register("ada")
        await auth.register("bob")
        for _ in range(3):
            error = await auth.refused("token", {"username": username, "password": "guess again"})
            assert error.status == 401

        error = await auth.refused("token", {"username": username, "password": PASSWORD})

        assert (error.status, error.code) == (429, "too_many_logins")
        assert error.retry_after_seconds is not None
        assert 0 < error.retry_after_seconds <= 60
        assert await auth.login("bob")


async def test_failed_logins_close_the_door_to_an_address(settings: Settings) -> None:
    async with running(with_auth(settings, login_attempts=1)) as auth:
        await auth.register("ada")
        for guess in range(10):
            body = {"username": f"user{guess}", "password": "guess again"}
            assert (await auth.refused("token", body, client="192.0.2.7")).status == 401

        ada = {"username": "ada", "password": PASSWORD}
        assert (await auth.refused("token", ada, client="192.0.2.7")).status == 429
        assert await auth.ask("token", ada, client="192.0.2.8")


async def test_more_logins_at_once_than_can_wait_are_told_to_come_back(settings: Settings) -> None:
    async with running(with_auth(settings, hash_threads=1, hash_waiting=1)) as auth:
        await auth.register("ada")
        tries = [auth.login("ada") for _ in range(20)]
        outcomes = await asyncio.gather(*tries, return_exceptions=True)

    refused = [outcome for outcome in outcomes if isinstance(outcome, HeadraceError)]
    assert refused
    assert len(refused) < 20
    assert {(error.status, error.code, error.retry_after_seconds) for error in refused} == {
        (503, "logins_saturated", 1)
    }


async def test_with_registration_closed_only_an_administrator_adds_users(settings: Settings) -> None:
    closed = with_auth(settings, register_open=False, bootstrap_admin="root", bootstrap_password="a lock and a key")
    async with running(closed) as auth:
        error = await auth.refused("register", {"username": "ada", "password": PASSWORD})
        assert (error.status, error.code) == (403, "registration_closed")

        admin = await auth.verified((await auth.login("root", "a lock and a key"))["access_token"])
        new = {"username": "ada", "password": PASSWORD, "scopes": ["dead:read", "documents:write:invoices"]}
        added = await auth.ask("users.add", new, acts_for=admin)

        assert added == {"username": "ada", "scopes": ["dead:read", "documents:write:invoices"]}
        listed = await auth.ask("users.list", acts_for=admin)
        assert [user["username"] for user in listed] == ["ada", "root"]
        assert not any("password" in key for user in listed for key in user)


@pytest.mark.parametrize(("endpoint", "body"), [("users.list", None), ("users.add", {}), ("signing.rotate", None)])
async def test_only_an_administrator_may(auth: Auth, endpoint: str, body: object) -> None:
    nobody = await auth.refused(endpoint, body)
    forged = await auth.refused(endpoint, body, acts_for=Principal("ada", frozenset({"documents:write"}), "t", "s", 0))

    assert (nobody.status, nobody.code) == (401, "unauthenticated")
    assert (forged.status, forged.code) == (403, "insufficient_scope")


async def test_an_unknown_scope_is_not_given_to_a_user(auth: Auth) -> None:
    admin = Principal("root", frozenset({"admin"}), "t", "s", 0)

    error = await auth.refused(
        "users.add", {"username": "ada", "password": PASSWORD, "scopes": ["documents:fly"]}, acts_for=admin
    )

    assert (error.status, error.errors[0].pointer, error.errors[0].code) == (422, "/scopes/0", "unknown_scope")


async def test_the_first_administrator_is_made_once_and_keeps_a_changed_password(settings: Settings) -> None:
    async with running(with_auth(settings, bootstrap_admin="root", bootstrap_password="a lock and a key")):
        pass
    async with running(with_auth(settings, bootstrap_admin="root", bootstrap_password="another lock")) as auth:
        answer = await auth.login("root", "a lock and a key")

    assert answer["scope"] == "admin"


@pytest.mark.parametrize("password", ["changeme", "password", None])
async def test_the_service_does_not_start_with_a_default_administrator(
    settings: Settings, password: str | None
) -> None:
    careless = with_auth(settings, bootstrap_admin="root", bootstrap_password=password)

    with pytest.raises(HeadraceError, match="BOOTSTRAP"):
        await asyncio.wait_for(run(careless, asyncio.Event()), DEADLINE_SECONDS)
