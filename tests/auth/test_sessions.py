"""Refresh tokens: rotated at each use, and the session ends when an old one comes back."""

from __future__ import annotations

import asyncio
from typing import Any

from headrace.errors import HeadraceError
from headrace.revocations import watch_revocations
from headrace.settings import Settings
from tests.auth.system import Auth, eventually, running, with_auth


async def renewed(auth: Auth, pair: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = await auth.ask("refresh", {"refresh_token": pair["refresh_token"]})
    return answer


async def test_a_refresh_gives_a_new_pair_of_the_same_session(auth: Auth) -> None:
    await auth.register("ada")
    first = await auth.login("ada", scope="documents:write")

    second = await renewed(auth, first)
    before, after = await auth.verified(first["access_token"]), await auth.verified(second["access_token"])

    assert second["refresh_token"] != first["refresh_token"]
    assert (after.subject, after.session_id, after.scopes) == (before.subject, before.session_id, before.scopes)
    assert after.token_id != before.token_id


async def test_each_login_is_a_session_of_its_own(auth: Auth) -> None:
    await auth.register("ada")

    sessions = {(await auth.verified((await auth.login("ada"))["access_token"])).session_id for _ in range(2)}

    assert len(sessions) == 2


async def test_an_old_refresh_token_ends_its_session_and_no_other(auth: Auth) -> None:
    await auth.register("ada")
    bystander = await auth.login("ada")
    first = await auth.login("ada")
    second = await renewed(auth, first)

    stolen = await auth.refused("refresh", {"refresh_token": first["refresh_token"]})
    newest = await auth.refused("refresh", {"refresh_token": second["refresh_token"]})

    assert (stolen.status, stolen.code) == (401, "invalid_refresh_token")
    assert (newest.status, newest.code) == (401, "invalid_refresh_token")
    assert await renewed(auth, bystander)


async def test_the_access_tokens_of_a_session_that_ended_die_too(auth: Auth) -> None:
    await auth.register("ada")
    first = await auth.login("ada")
    second = await renewed(auth, first)
    async with watch_revocations(auth.bus, auth.settings.namespace) as revocations:
        await auth.refused("refresh", {"refresh_token": first["refresh_token"]})

        for pair in (first, second):
            principal = await auth.verified(pair["access_token"])
            await eventually(lambda of=principal: _true_of(revocations.is_revoked(of)))
            error = await auth.refused("me", {"token": pair["access_token"]})
            assert (error.status, error.code) == (401, "token_revoked")


async def _true_of(value: bool) -> bool:
    return value


async def test_of_two_refreshes_at_once_one_wins_and_the_session_ends(auth: Auth) -> None:
    await auth.register("ada")
    first = await auth.login("ada")

    outcomes = await asyncio.gather(*(renewed(auth, first) for _ in range(2)), return_exceptions=True)

    (won,) = [outcome for outcome in outcomes if isinstance(outcome, dict)]
    (lost,) = [outcome for outcome in outcomes if isinstance(outcome, HeadraceError)]
    assert lost.code == "invalid_refresh_token"
    assert (await auth.refused("refresh", {"refresh_token": won["refresh_token"]})).status == 401


async def test_revoking_a_refresh_token_ends_the_session(auth: Auth) -> None:
    await auth.register("ada")
    pair = await auth.login("ada")

    assert await auth.ask("revoke", {"token": pair["refresh_token"]}) is None

    assert (await auth.refused("refresh", {"refresh_token": pair["refresh_token"]})).status == 401
    assert (await auth.refused("me", {"token": pair["access_token"]})).code == "token_revoked"


async def test_revoking_an_access_token_leaves_its_session(auth: Auth) -> None:
    await auth.register("ada")
    pair = await auth.login("ada")

    await auth.ask("revoke", {"token": pair["access_token"]})

    assert (await auth.refused("me", {"token": pair["access_token"]})).code == "token_revoked"
    after = await renewed(auth, pair)
    assert (await auth.ask("me", {"token": after["access_token"]}))["username"] == "ada"


async def test_revoking_what_never_was_is_no_error(auth: Auth) -> None:
    for token in ("", "nonsense", "hrr_" + "a" * 43, "hr_0123456789abcdef_" + "a" * 43, "hrr_\x00", "é"):
        assert await auth.ask("revoke", {"token": token}) is None


async def test_a_refresh_token_that_never_was_is_refused(auth: Auth) -> None:
    for token in ("", "nonsense", "hrr_" + "a" * 43, "hrr_\x00", "é" * 5000):
        error = await auth.refused("refresh", {"refresh_token": token})
        assert (error.status, error.code) == (401, "invalid_refresh_token")


async def test_a_session_ends_by_itself(settings: Settings) -> None:
    async with running(with_auth(settings, access_seconds=1, refresh_seconds=1)) as auth:
        await auth.register("ada")
        pair = await auth.login("ada")

        async def expired() -> bool:
            rows = await auth.rows("SELECT expires_at <= now() AS over FROM auth.refresh_tokens")
            return bool(rows[0]["over"])

        await eventually(expired)
        assert (await auth.refused("refresh", {"refresh_token": pair["refresh_token"]})).status == 401

        await auth.login("ada")
        assert len(await auth.rows("SELECT FROM auth.refresh_tokens")) == 1


async def test_me_tells_who_a_token_speaks_for(auth: Auth) -> None:
    principal = await auth.newcomer("ada")

    by_token = await auth.ask("me", {"token": (await auth.login("ada"))["access_token"]})
    by_gateway = await auth.ask("me", acts_for=principal)

    assert by_token["username"] == by_gateway["username"] == "ada"
    assert set(by_token["scopes"]) == set(by_gateway["scopes"]) == principal.scopes


async def test_me_refuses_who_is_nobody(auth: Auth) -> None:
    assert (await auth.refused("me", {"token": "nonsense"})).code == "invalid_token"
    assert (await auth.refused("me", {})).status == 422


async def test_no_token_is_stored_as_it_is(auth: Auth) -> None:
    await auth.register("ada")
    pair = await auth.login("ada")

    stored = str(await auth.rows("SELECT * FROM auth.refresh_tokens")) + str(
        await auth.rows("SELECT * FROM auth.audit")
    )

    assert pair["refresh_token"] not in stored
    assert pair["refresh_token"].removeprefix("hrr_") not in stored
    assert pair["access_token"] not in stored
